"""Imports TensorFlow for a command: without the lines that its C++ parts greet every start with.

They are written before a level of logging can be set (TF_CPP_MIN_LOG_LEVEL), straight to standard
error. Import this module before TensorFlow. Standard streams that are closed become /dev/null.
A terminal says what it waits for, and Ctrl-C ends in one line then too.
"""

import contextlib
import logging
import os
import sys
import tempfile
import types
from collections.abc import Iterator

from mnemonics_tf.terminal import passing

#: what begins a line of information, and the line that comes before the first of them
_GREETINGS = (b"I0000 ", b"WARNING: All log messages before absl::InitializeLog()")

_STANDARD_ERROR = 2


def open_standard_streams() -> None:
    """Opens those that the program was started without (`>&-`), on /dev/null.

    The first files to be opened would have their numbers, and what is meant for a terminal would be
    written into them.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            mode = "w" if descriptor else "r"
            setattr(sys, name, open(descriptor, mode, encoding="utf-8"))  # noqa: SIM115, stays open


@contextlib.contextmanager
def without_greetings() -> Iterator[None]:
    """Within it nothing reaches standard error; afterwards all but greetings does.

    With TF_CPP_MIN_LOG_LEVEL=0 everything does, as it comes.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0" or "tensorflow" in sys.modules:
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        original = os.dup(_STANDARD_ERROR)
        os.dup2(held.fileno(), _STANDARD_ERROR)
        try:
            yield
        finally:
            os.dup2(original, _STANDARD_ERROR)
            os.close(original)
            held.seek(0)
            for line in held:
                if not line.startswith(_GREETINGS):
                    os.write(_STANDARD_ERROR, line)


def tells(record: logging.LogRecord) -> bool:
    """Returns whether a message of TensorFlow's is for users: that graphs are traced anew is not.

    Graphs are counted (`mnemonics_tf.tracing`), and tests hold how many there are.
    """
    return "triggered tf.function retracing" not in record.getMessage()


def tell_uncaught(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    """Tells of what ended the program: of Ctrl-C, which may come before `main`, in one line."""
    if issubclass(kind, KeyboardInterrupt):
        passing("")
        print("stopped at once", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


open_standard_streams()
sys.excepthook = tell_uncaught
passing("loading TensorFlow ...")
with without_greetings():
    import tensorflow  # noqa: F401
passing("")

logging.getLogger("tensorflow").addFilter(tells)
