"""Paths that a user passes: `~` is a home, and none holds what no path or no line can hold."""

import os
import pathlib

from mnemonics_tf.errors import UserError, is_utf8, printable

#: what ends a line of a flagfile, or a path
_NO_PART_OF_A_PATH = ("\n", "\r", "\0")


def user_path(passed: str | os.PathLike) -> pathlib.Path:
    """Returns a path as it was meant: a shell leaves `~` after `=` as it is, a flagfile always.

    A folder that is really called `~` is `./~`.

    Raises:
        UserError: if there is no such home, or the path is not UTF-8 or holds a line break or a
            NUL.
    """
    text = os.fspath(passed)
    if any(character in text for character in _NO_PART_OF_A_PATH):
        raise UserError(f"the path '{printable(text)}' holds a line break or a NUL: pass another")
    if not is_utf8(text):  # TensorFlow, flagfiles and logs could not name it
        raise UserError(f"the path '{printable(text)}' is not UTF-8: rename it")
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise UserError(
            f"{printable(text)}: there is no such home; pass the whole path, or put ./ before it "
            "for a folder of that name"
        )
    path = pathlib.Path(expanded)
    # `./~` without its dot, which pathlib takes away, would be a home the next time.
    return path.absolute() if str(path).startswith("~") else path
