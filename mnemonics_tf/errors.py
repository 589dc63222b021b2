"""The one exception a user is meant to read, and the words that its messages are made of."""

import os
from collections.abc import Sequence


class UserError(Exception):
    """A mistake in what the user passed; the message says what, what was expected and the way out.

    Entry points print the message as one line and end with exit status 2; no traceback is shown.
    """


def counted(number: int, thing: str) -> str:
    """Returns a number of things in words: `1 class`, `2 classes`, `1 phase`, `3 phases`."""
    plural = "es" if thing.endswith("s") else "s"
    return f"{number} {thing}{'' if number == 1 else plural}"


def is_utf8(text: str) -> bool:
    """Whether files in UTF-8 can hold a text: names of files that are not UTF-8 can't be held."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(path: str | bytes | os.PathLike[str]) -> str:
    r"""Returns a name or path as any terminal and log can show it, on one line.

    Bytes that are no UTF-8 and control characters show as `\xNN`.
    """
    try:
        text = os.fsencode(path).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a half of a surrogate pair, which no file name has
        text = os.fsdecode(path).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(path: str | bytes | os.PathLike[str], most: int) -> str:
    """Returns what `printable` does, of a long one the beginning and how long it is.

    Args:
        path: a name or path.
        most: characters of it to show.
    """
    text = printable(path)
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def few(names: Sequence[str]) -> str:
    """Returns the first names of a list, and how many more there are, for a message."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(printable, names[:5])) + more if names else "none"
