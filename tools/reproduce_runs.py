"""Training the runs of a grid: some side by side, none before the model of phase 0 it can share."""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence

from mnemonics_tf.errors import UserError
from mnemonics_tf.methods import METHODS
from mnemonics_tf.paths import user_path
from mnemonics_tf.phases.phase0 import seed_of
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.resume import read_settings
from mnemonics_tf.settings import by_name
from tools.reproduce_results import Run

_POLL_SECONDS = 1.0

#: starts a run with the directory of its phase 0, if any
Start = Callable[[Run, pathlib.Path | None], subprocess.Popen]


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


class Trainer:
    """Starts the training command.

    Args:
        schedule: flags that say how long to train.
        data_dir: value of --data_dir.
        jobs: how many runs train at a time.
    """

    def __init__(self, schedule: Sequence[str], data_dir: str, jobs: int = 1):
        self._schedule = schedule
        self._data_dir = data_dir
        self._environment = dict(os.environ)
        if jobs > 1:
            # Two one-threaded runs side by side use two cores better than one run with two
            # threads: measured 306 against 271 images/s.
            threads = max(1, cores() // jobs)
            self._environment["TF_NUM_INTRAOP_THREADS"] = str(threads)

    def command(self, run: Run, phase0_from: pathlib.Path | None) -> list[str]:
        """Returns the command that trains the run, or goes on with it."""
        return [
            *(sys.executable, "-m", "mnemonics_tf.train"),
            *(f"--dataset={run.place.dataset}", *self._schedule, *run.choices()),
            *(f"--data_dir={self._data_dir}", f"--run_dir={run.directory.root}"),
            *([f"--phase0_from={phase0_from}"] if phase0_from else []),
        ]

    def __call__(self, run: Run, phase0_from: pathlib.Path | None) -> subprocess.Popen:
        """Starts the run."""
        path = printed(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a") as output:
            command = self.command(run, phase0_from)
            output.write(f"$ {shlex.join(command)}\n")
            output.flush()
            return subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Out of reach of the terminal's Ctrl-C: a second signal, beside the one that is
                # passed on, would stop the run before it has saved.
                start_new_session=True,
            )


def printed(run: Run) -> pathlib.Path:
    """Returns the file that collects what the run prints, errors before its own log.txt too."""
    return run.directory.root.with_name(f"{run.name}.log")


# Phase 0


def phase0_of(directory: RunDirectory) -> tuple[str, str, int] | None:
    """Returns what `Run.phase0` is for a run directory; None without a trained model."""
    if not directory.base_model.exists():
        return None
    try:
        settings = by_name(read_settings(directory))
        return settings["dataset"], METHODS[settings["method"]].classifier, seed_of(directory)
    except (UserError, KeyError, TypeError):
        return None


def check_phase0_from(paths: Sequence[str]) -> list[pathlib.Path]:
    """Returns the directories.

    Raises:
        UserError: if one has no model of phase 0.
    """
    for path in paths:
        if phase0_of(RunDirectory(path)) is None:
            raise UserError(
                f"--phase0_from={','.join(paths)}: {path} is no run directory that has trained its "
                "phase 0 (it needs settings.json and phases/00/base_model.npz)"
            )
    return [user_path(path) for path in paths]


def find_phase0(run: Run, given: Sequence[pathlib.Path]) -> pathlib.Path | None:
    """Returns a directory whose model of phase 0 the run can take, if there is one.

    Args:
        run: the taker.
        given: directories to look at beside those of the run's folder, which come first: what was
            trained here was trained with this schedule.
    """
    folder = run.place.folder
    here = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.exists() else []
    for path in (*here, *given):
        found = phase0_of(RunDirectory(path)) if path != run.directory.root else None
        if found and run.place.share_phase0:
            found = (*found[:2], None)
        if found == run.phase0:
            return path
    return None


# Scheduling


class Signals:
    """Takes SIGTERM and SIGINT, to be passed on.

    Attributes:
        requested: whether one came.
    """

    def __init__(self):
        self.requested = False
        self._waiting: list[int] = []

    def listen(self) -> None:
        """Takes them from here on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number, frame) -> None:
        del frame
        self.requested = True
        self._waiting.append(number)

    def pass_on(self, processes: Iterable[subprocess.Popen]) -> None:
        """Sends what came since the last call."""
        while self._waiting:
            number = self._waiting.pop(0)
            for process in processes:
                process.send_signal(number)


def _ended(running: dict[Run, subprocess.Popen]) -> list[tuple[Run, int]]:
    statuses = [(run, process.poll()) for run, process in running.items()]
    return [(run, status) for run, status in statuses if status is not None]


def train_all(
    runs: Sequence[Run],
    start: Start,
    *,
    jobs: int,
    given: Sequence[pathlib.Path],
    signals: Signals,
    finished: Callable[[Run], None],
) -> list[Run]:
    """Trains runs, as many at a time as there are jobs; returns those that failed.

    A run whose phase 0 another one is training waits for it. A run that fails leaves the others
    alone. Once a signal came, nothing new starts, and all that runs is waited for.

    Args:
        runs: to train, each name once.
        start: starts one.
        jobs: how many may train at a time.
        given: directories whose models of phase 0 may be taken.
        signals: to pass on.
        finished: called after each run that ended well.
    """
    left, running, failed = list(runs), {}, []
    try:
        while running or (left and not signals.requested):
            signals.pass_on(running.values())
            for run, status in _ended(running):
                del running[run]
                if status == 0:
                    finished(run)
                elif signals.requested:
                    print(f"stopped: {run.name}", flush=True)
                else:
                    failed.append(run)
                    print(f"failed with status {status}: {run.name}", flush=True)
            if not signals.requested and len(running) < jobs:
                ready = (run for run in left if _may_start(run, running, given))
                run = next(ready, None)
                if run is not None:
                    left.remove(run)
                    running[run] = start(run, find_phase0(run, given))
                    print(f"started: {run.name}\n  it prints to {printed(run)}", flush=True)
                    continue
            if running:
                time.sleep(_POLL_SECONDS)
    finally:
        for process in running.values():  # only where this process itself is in trouble
            process.terminate()
        for process in running.values():
            process.wait()
    return failed


def _may_start(run: Run, running: Collection[Run], given: Sequence[pathlib.Path]) -> bool:
    """Whether the run has a model of phase 0, or must train the one that no other trains now."""
    return (
        run.directory.base_model.exists()
        or find_phase0(run, given) is not None
        or all(other.phase0 != run.phase0 for other in running)
    )
