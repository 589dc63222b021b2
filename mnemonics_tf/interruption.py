"""Stopping on request: SIGTERM and SIGINT save first."""

import contextlib
import os
import signal

#: exit status of a run that was asked to stop and can go on (EX_TEMPFAIL)
EXIT_STATUS = 75

_STANDARD_OUTPUT = 1


class RunInterruptedError(Exception):
    """A run was asked to stop, and has written a checkpoint from which it goes on."""


class StopRequest:
    """Remembers that a signal asked the program to stop.

    Attributes:
        requested: whether one did.
    """

    def __init__(self):
        self.requested = False

    def listen(self) -> None:
        """Takes SIGTERM and SIGINT from here on; a second one acts as it would have without."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number, frame) -> None:
        del frame
        self.requested = True
        signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        )
        name = signal.Signals(number).name
        line = f"{name}: saving at the end of this epoch or step; once more stops at once\n"
        # Not by print: its buffer may be in use by what the signal interrupted.
        with contextlib.suppress(OSError):
            os.write(_STANDARD_OUTPUT, line.encode())
