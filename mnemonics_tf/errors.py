"""The one exception a user is meant to read."""


class UserError(Exception):
    """A mistake in what the user passed; the message says what, what was expected and the way out.

    Entry points print the message as one line and end with exit status 2; no traceback is shown.
    """
