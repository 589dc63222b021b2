"""The line of a terminal that changes: what is being done, or waited for."""

import contextlib
import os
import shutil
import sys

#: back to the beginning of the line, and clear it
ERASE_LINE = "\r\x1b[K"


def is_terminal() -> bool:
    """Whether standard output is a terminal that knows how to clear a line."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def passing(text: str) -> None:
    """Shows on a terminal what is being waited for, until the next line takes its place.

    Args:
        text: what does not fit into a line is cut, or the next one could not take its place.
    """
    if is_terminal():
        width = shutil.get_terminal_size().columns - 1
        with contextlib.suppress(OSError):
            sys.stdout.write(ERASE_LINE + text[:width])
            sys.stdout.flush()
