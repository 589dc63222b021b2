"""What a run says while it works: one line on a terminal, plain lines elsewhere, and log.txt."""

import logging
import pathlib
import sys
import time

from mnemonics_tf.run_directory import user_error_on_disk_trouble

LOGGER = logging.getLogger("mnemonics_tf")


def log_to(path: pathlib.Path) -> None:
    """Sends messages to standard output and, with the time of day, to the end of a log file."""
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    for handler in list(LOGGER.handlers):
        LOGGER.removeHandler(handler)
        handler.close()
    console = logging.StreamHandler(sys.stdout)
    console.setFormatter(logging.Formatter("%(message)s"))
    with user_error_on_disk_trouble(path):
        file = _LogFile(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    LOGGER.addHandler(console)
    LOGGER.addHandler(file)


class _LogFile(logging.FileHandler):
    """A log that a full disk costs its lines, but not the run its work."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, logging's own name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def duration(seconds: float) -> str:
    """Returns seconds as `12 s`, `3:05` or `1:02:03`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class StageProgress:
    """Reports one stage of one phase: position, figures, time left in the stage.

    Args:
        phase: index of the phase.
        num_phases: N, the last phase's index.
        stage: name.
        total: how many positions (epochs, outer steps) the stage has.
        start: position at which this process begins.
    """

    #: seconds between two lines in the log, so that short epochs do not flood it
    INTERVAL = 5.0

    def __init__(self, phase: int, num_phases: int, stage: str, total: int, start: int = 0):
        self._prefix = f"phase {phase}/{num_phases} {stage}"
        self._total = total
        self._start = start
        self._started = time.monotonic()
        self._reported = -self.INTERVAL
        self._terminal = sys.stdout.isatty()

    def update(self, position: int, figures: dict[str, float]) -> None:
        """Reports that `position` of the total is done."""
        now = time.monotonic()
        done = position - self._start
        left = (now - self._started) / max(done, 1) * (self._total - position)
        text = "  ".join(f"{name} {_number(value)}" for name, value in figures.items())
        line = f"{self._prefix} {position}/{self._total}  {text}  {duration(left)} left"
        last = position == self._total
        if self._terminal:
            sys.stdout.write("\r\x1b[K" + ("" if last else line))
            sys.stdout.flush()
        if last or (not self._terminal and now - self._reported >= self.INTERVAL):
            LOGGER.info("%s", line)
            self._reported = now


def _number(value: float) -> str:
    if value == 0 or 0.01 <= abs(value) < 100:
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1e}"
