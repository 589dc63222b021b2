"""Packages that not every use needs, and the extras of this one that bring them."""

import contextlib
from collections.abc import Iterator

from mnemonics_tf.errors import UserError


@contextlib.contextmanager
def extra(name: str, purpose: str) -> Iterator[None]:
    """Within it stand imports of packages that an extra brings.

    Args:
        name: of the extra in pyproject.toml.
        purpose: what needs them, for the message.

    Raises:
        UserError: if one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(
            f"{purpose} needs {error.name}, which is not installed: pip install "
            f"'mnemonics-tf[{name}]'"
        ) from error
