"""Stopping on request: SIGTERM and SIGINT save first."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from mnemonics_tf.terminal import ERASE_LINE, is_terminal

#: exit status of a run that was asked to stop and can go on (EX_TEMPFAIL)
EXIT_STATUS = 75

#: exit status of a program that Ctrl-C ended at once (128 + SIGINT, as shells have it)
INTERRUPTED = 130

_STANDARD_OUTPUT = 1

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class RunInterruptedError(Exception):
    """A run was asked to stop, and has written a checkpoint from which it goes on."""


class StopRequest:
    """Remembers that a signal asked the program to stop.

    Args:
        any_worker: tells whether any worker of the run was asked, given whether this one was.

    Attributes:
        requested: whether a signal did.
    """

    def __init__(self, any_worker: Callable[[bool], bool] = bool):
        self.requested = False
        self._any_worker = any_worker

    def agreed(self) -> bool:
        """Returns whether to stop here: all workers ask at the same points, and none goes alone."""
        return self._any_worker(self.requested)

    def listen(self) -> None:
        """Takes SIGTERM and SIGINT from here on; a second one acts as it would have without."""
        for number in _SIGNALS:
            signal.signal(number, self._note)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within it SIGTERM and SIGINT ask to stop; afterwards they act as they did before.

        What was asked for before is over: who enters again goes on. Signals reach Python's main
        thread only: in another one nothing is listened for.
        """
        self.requested = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number, frame) -> None:
        del frame
        self.requested = True
        signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        )
        name = signal.Signals(number).name
        line = f"{name}: saving after the steps in progress; once more stops at once\n"
        # The terminal has shown ^C behind the line that says how far the run is.
        line = ERASE_LINE * is_terminal() + line
        # Not by print: its buffer may be in use by what the signal interrupted.
        with contextlib.suppress(OSError):
            os.write(_STANDARD_OUTPUT, line.encode())
