"""What a run says while it works: one line on a terminal, plain lines elsewhere, and log.txt."""

import contextlib
import errno
import logging
import logging.handlers
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from mnemonics_tf.run.files import user_error_on_disk_trouble
from mnemonics_tf.terminal import ERASE_LINE, is_terminal, passing
from mnemonics_tf.tracing import TRACES

LOGGER = logging.getLogger("mnemonics_tf")

#: what a run has put on the logger
_HANDLERS: list[logging.Handler] = []
#: a mark for each command that runs
_COMMANDS: list[None] = []
#: level and propagation of the logger before a run changed them
_BEFORE: list[tuple[int, bool]] = []

Item = TypeVar("Item")

#: messages that are held for a log file
_HELD = 10_000


def log_before_run(console: bool = True) -> None:
    """Sends messages to standard output, and holds them for the log file that `log_to` will open.

    What is found while data is read belongs into the run's log, but a mistake found there must not
    leave a run directory behind.

    Args:
        console: whether they go to standard output.
    """
    _begin(console)
    held = logging.handlers.MemoryHandler(_HELD, logging.CRITICAL + 1, flushOnClose=False)
    _add(held)


def log_to(path: pathlib.Path, console: bool = True) -> None:
    """Sends messages, with the time of day, to the end of a log file, and to standard output.

    Args:
        path: the log file; begins with what `log_before_run` held.
        console: whether they go to standard output.
    """
    earlier = [h for h in _HANDLERS if isinstance(h, logging.handlers.MemoryHandler)]
    messages = [message for handler in earlier for message in handler.buffer]
    _begin(console)
    with user_error_on_disk_trouble(path):
        file = _LogFile(path, messages)
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    _add(file)


def stop_logging() -> None:
    """Undoes `log_to`: the log file is closed, and messages go where the program has them go."""
    _close()
    if _BEFORE:
        level, LOGGER.propagate = _BEFORE.pop()
        LOGGER.setLevel(level)


def is_logging() -> bool:
    """Whether messages go where a run has them go."""
    return bool(_HANDLERS)


def _begin(console: bool) -> None:
    if not _BEFORE:
        _BEFORE.append((LOGGER.level, LOGGER.propagate))
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    _close()
    if console:
        stream = _Console(sys.stdout)
        # A message takes the place of the progress line that may stand on a terminal.
        stream.setFormatter(logging.Formatter(f"{ERASE_LINE * is_terminal()}%(message)s"))
        _add(stream)


def _add(handler: logging.Handler) -> None:
    _HANDLERS.append(handler)
    LOGGER.addHandler(handler)


def _close() -> None:
    """Takes back the run's handlers; a program's own stay."""
    while _HANDLERS:
        handler = _HANDLERS.pop()
        LOGGER.removeHandler(handler)
        handler.close()


class _Console(logging.StreamHandler):
    """Standard output that may lose its reader, which costs its lines, but not the run its work."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, logging's own name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
        elif is_gone(sys.exc_info()[1]):
            drop_output("the work goes on without it")


def is_gone(error: BaseException | None) -> bool:
    """Whether an error says that nobody reads any more: a pipe's end or the terminal was closed."""
    return isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.EIO)


def drop_output(consequence: str = "") -> None:
    """Sends standard output nowhere from here on; what is still in its buffer too.

    Args:
        consequence: what to say on standard error, if anything.
    """
    with contextlib.suppress(OSError, ValueError):  # a notebook's has no descriptor
        descriptor = sys.stdout.fileno()
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), descriptor)
    if consequence:
        with contextlib.suppress(OSError):
            print(f"standard output was closed: {consequence}", file=sys.stderr)


class _LogFile(logging.FileHandler):
    """A log that a full disk costs its lines, but not the run its work.

    Args:
        path: of the file.
        earlier: messages that stand before the first one; a run that is refused writes none.
    """

    def __init__(self, path: pathlib.Path, earlier: list[logging.LogRecord]):
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self._earlier = earlier

    def emit(self, record: logging.LogRecord) -> None:
        earlier, self._earlier = self._earlier, []
        for message in (*earlier, record):
            super().emit(message)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, logging's own name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def waiting_for(text: str) -> None:
    """Shows on a terminal that has the messages what they wait for, until the next one comes."""
    if _on_console():
        passing(f"{text} ...")


def _on_console() -> bool:
    """Whether messages go to standard output; a program may want none, or have its own way."""
    return any(isinstance(handler, _Console) for handler in _HANDLERS)


def duration(seconds: float) -> str:
    """Returns seconds as `12 s`, `3:05` or `1:02:03`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Shows messages on standard output, unless a run or the program takes them already."""
    if LOGGER.handlers or (LOGGER.isEnabledFor(logging.INFO) and LOGGER.hasHandlers()):
        yield
        return
    _begin(console=True)
    try:
        yield
    finally:
        stop_logging()


@contextlib.contextmanager
def in_command() -> Iterator[None]:
    """Has a terminal show how far work is, also where a command prints results and no messages."""
    _COMMANDS.append(None)
    try:
        yield
    finally:
        _COMMANDS.pop()


class Progress:
    """Reports long work: position, metrics, time left.

    Args:
        prefix: what stands in front, the unit that is counted last.
        total: how many positions (epochs, outer steps) there are.
        start: position at which this process begins; a part of one may be done.
    """

    #: seconds between two lines in the log, so that short epochs do not flood it
    INTERVAL = 5.0
    #: and within a unit
    INTERVAL_WITHIN = 60.0

    def __init__(self, prefix: str, total: int, start: float = 0):
        self._prefix = prefix
        self._total = total
        self._started = time.monotonic()
        self._traced = TRACES.seconds
        self._last = (start, self._started, self._traced)  # position, time, tracing by then
        self._measured = (0.0, 0.0)  # positions and seconds, but for updates that had tracing
        self._reported = -self.INTERVAL
        self._terminal = is_terminal() and (_on_console() or bool(_COMMANDS and not _HANDLERS))

    def spent(self) -> float:
        """Returns the seconds so far, but for tracing: done once, it tells nothing of the rest."""
        tracing = TRACES.seconds - self._traced
        return max(time.monotonic() - self._started - tracing, 0.0)

    def update(self, position: float, metrics: dict[str, float]) -> None:
        """Reports that `position` of the total is done.

        Args:
            position: epochs or steps done; within one a fraction of it.
            metrics: by name; `loss` or `meta_loss` and `images_per_second` stand in front.
        """
        now, last = time.monotonic(), position == self._total
        if self._traces(position, now):
            metrics = {name: v for name, v in metrics.items() if name != "images_per_second"}
        positions, seconds = self._measured
        if last:
            when = f"took {duration(now - self._started)}"
        elif positions:
            when = f"{duration(seconds / positions * (self._total - position))} left"
        else:
            when = "time left not known yet"
        whole, part = divmod(position, 1)
        where = f"{int(whole) + (part > 0)}/{self._total}" + (f" ({part:.0%})" if part else "")
        line = f"{self._prefix} {where}  {_described(metrics, when)}"
        if self._terminal and not last:
            # One line: what does not fit is cut, or the next one could not take its place. The time
            # left is what is wanted most.
            width = shutil.get_terminal_size().columns - 1
            shown = line
            if len(line) > width:
                shown = f"{self._prefix} {where}  {when}  {_described(metrics, '')}"
            try:
                sys.stdout.write(ERASE_LINE + shown[:width])
                sys.stdout.flush()
            except OSError as error:
                if not is_gone(error):
                    raise
                drop_output("the work goes on without it")
        interval = self.INTERVAL_WITHIN if part else self.INTERVAL
        if last or (not self._terminal and now - self._reported >= interval):
            LOGGER.info("%s", line)
            self._reported = now

    def _traces(self, position: float, now: float) -> bool:
        """Returns whether there was tracing since the last update; measures the speed if not."""
        before, since, tracing = self._last
        self._last = (position, now, TRACES.seconds)
        if TRACES.seconds > tracing:
            return True
        positions, seconds = self._measured
        self._measured = (positions + position - before, seconds + now - since)
        return False


def watched(items: Iterable[Item], total: int, prefix: str) -> Iterator[Item]:
    """Yields items, and says how far they are, and when they are done, if it takes long.

    Args:
        items: whose use takes time.
        total: how many there are.
        prefix: what stands in front, the unit that is counted last.
    """
    progress, told = Progress(prefix, total), False
    for done, item in enumerate(items):
        if done and (told or progress.spent() >= Progress.INTERVAL):
            progress.update(done, {})
            told = True
        yield item
    if told:
        progress.update(total, {})


class StageProgress(Progress):
    """Reports one stage of one phase.

    Args:
        phase: index of the phase.
        num_phases: N, the last phase's index.
        stage: name.
        total: how many positions (epochs, outer steps) the stage has.
        start: position at which this process begins; a part of one may be done.
        unit: what is counted.
    """

    def __init__(
        self,
        phase: int,
        num_phases: int,
        stage: str,
        total: int,
        start: float = 0,
        unit: str = "epoch",
    ):
        prefix = f"phase {phase}/{num_phases} {stage} {unit}"
        super().__init__(prefix, total, start)
        waiting_for(f"{prefix} {int(start)}/{total}  begins")  # tracing may take the first minute


def _described(metrics: dict[str, float], when: str) -> str:
    """Returns loss, speed and time, then the other metrics."""
    rest = dict(metrics)
    loss = [f"{name} {_number(rest.pop(name))}" for name in ("loss", "meta_loss") if name in rest]
    speed = rest.pop("images_per_second", None)
    rates = [] if speed is None else [f"{_number(speed)} images/s"]
    others = [f"{name} {_number(value)}" for name, value in rest.items()]
    return "  ".join([*loss, *rates, *([when] if when else []), *others])


def _number(value: float) -> str:
    if value == 0 or 0.01 <= abs(value) < 100:
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1e}"
