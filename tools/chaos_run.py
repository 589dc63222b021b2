"""A small run that tools/chaos.py breaks: started, watched from outside, and compared."""

import contextlib
import copy
import dataclasses
import os
import pathlib
import resource
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.experiment import STAGES
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_arrays, read_json
from mnemonics_tf.run.results import without_times

#: digits in two phases, with every stage of Algorithm 1 at work; a checkpoint at every position
DEMO = {
    "base_classes": 6,
    "num_phases": 1,
    "depth": 8,
    "base_epochs": 3,
    "epochs": 3,
    "finetune_epochs": 3,
    "exemplars": "mnemonics",
    "adjust_old_exemplars": True,
    "weight_transfer": True,
    "exemplars_per_class": 6,
    "outer_steps": 6,
    "adjust_steps": 5,
    "inner_steps": 5,
    "outer_batch_size": 100,
    "validation_every": 2,
    "checkpoint_epochs": 1,
    "checkpoint_outer_steps": 1,
}

_REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
_POLL_SECONDS = 0.01
PATIENCE_SECONDS = 1200
#: the stage after the last one: test, export, record
EVALUATE = len(STAGES)


@dataclasses.dataclass(frozen=True, order=True)
class Moment:
    """A point in a run, as its files show it.

    Attributes:
        phase: index of the first phase that is not closed.
        stage: index of the stage in progress.
        position: epochs or outer steps of it that are done.
    """

    phase: int
    stage: int
    position: int

    def __str__(self) -> str:
        names = [*STAGES, "evaluate"]
        return f"phase {self.phase} {names[self.stage]} {self.position}"


def moments(demo: dict[str, Any]) -> list[Moment]:
    """Returns all moments that checkpoints of a run with these flags show, in order."""
    found = []
    for phase in range(demo["num_phases"] + 1):
        positions = {
            "train": demo["epochs" if phase else "base_epochs"],
            "exemplars": demo["outer_steps"] if demo["exemplars"] == "mnemonics" else 0,
            "adjust": demo["adjust_steps"] if phase and demo["adjust_old_exemplars"] else 0,
            "finetune": demo["finetune_epochs"] if phase else 0,
        }
        for stage, name in enumerate(STAGES):
            found += [Moment(phase, stage, k) for k in range(positions.get(name, 0) + 1)]
        found.append(Moment(phase, EVALUATE, 0))
    return found


def reached(directory: RunDirectory) -> Moment:
    """Returns the newest moment that a run directory shows."""
    names, phase = [*STAGES, "test"], 0
    while directory.record(phase).exists():
        phase += 1
    for path in sorted(directory.phase(phase).glob("checkpoint-*.npz"), reverse=True):
        with contextlib.suppress(OSError, zipfile.BadZipFile, ValueError, KeyError):
            arrays = np.load(path)
            # Where a stage counts its steps and has epochs, those.
            position = arrays["epoch:done" if "epoch:done" in arrays else "position"]
            return Moment(phase, names.index(str(arrays["stage"])), int(position))
    return Moment(phase, 0, 0)


class Runner:
    """Starts the training command on one run directory, again and again.

    Args:
        demo: its flags.
        directory: of the run.
        output: file that collects what the command prints.
        environment: variables to add to this process's.
    """

    def __init__(
        self,
        demo: dict[str, Any],
        directory: pathlib.Path,
        output: pathlib.Path,
        environment: dict[str, str] | None = None,
    ):
        self.directory = RunDirectory(directory)
        self.output = output
        self._arguments = [f"--{name}={value}" for name, value in demo.items()]
        self._environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"} | (environment or {})

    def start(self, *program: str) -> subprocess.Popen:
        """Starts the command; `program` stands for `-m mnemonics_tf.train`."""
        command = [sys.executable, *(program or ("-m", "mnemonics_tf.train")), *self._arguments]
        with open(self.output, "ab") as output:
            return subprocess.Popen(
                [*command, f"--run_dir={self.directory.root}"],
                cwd=_REPOSITORY,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @contextlib.contextmanager
    def until(self, moment: Moment, *program: str) -> Iterator[subprocess.Popen]:
        """Yields the running command once the run has got as far as `moment`; ends it after."""
        process = self.start(*program)
        try:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while reached(self.directory) < moment:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"no {moment} with {self.directory.root}: {self.printed()}")
                time.sleep(_POLL_SECONDS)
            yield process
        finally:
            process.kill()
            process.wait()

    def finish(self, *program: str, largest_file: int = -1) -> tuple[int, str]:
        """Runs the command to its end; returns its exit status and what it printed.

        Args:
            *program: as for `start`.
            largest_file: bytes that a file may have; -1: no limit.
        """
        already = len(self.printed()) if self.output.exists() else 0
        process = self.start(*program)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest_file, largest_file))
        try:
            status = process.wait(PATIENCE_SECONDS)
        finally:
            process.kill()
            process.wait()
        return status, self.printed()[already:]

    def on(self, directory: pathlib.Path) -> "Runner":
        """Returns a runner of the same command on another directory."""
        other = copy.copy(self)
        other.directory = RunDirectory(directory)
        return other

    def printed(self) -> str:
        """Returns what the command printed so far, over all starts."""
        return self.output.read_text(errors="replace")


def error_line(printed: str) -> str:
    """Returns the line with which the program explained its end, or how it ended otherwise."""
    if "Traceback (most recent call last)" in printed:
        return f"traceback: {printed.strip().splitlines()[-1]}"
    lines = [line for line in printed.splitlines() if line.startswith("error: ")]
    return lines[-1] if lines else "no message"


# Comparing


def differences(expected: RunDirectory, found: RunDirectory) -> list[str]:
    """Returns in what a finished run differs from another, times apart; bit for bit."""
    different = []
    ours, theirs = (without_times(read_json(run.results)) for run in (found, expected))
    different += [name for name in theirs if ours.get(name) != theirs[name]]
    kinds = (RunDirectory.model, RunDirectory.exemplars, RunDirectory.predictions)
    for phase in range(len(theirs["phases"])):
        for kind in kinds:
            one, other = read_arrays(kind(found, phase)), read_arrays(kind(expected, phase))
            if not _same_arrays(one, other):
                different.append(str(kind(found, phase).relative_to(found.root)))
        one, other = (_exported_outputs(run, phase) for run in (found, expected))
        different += [
            f"export {phase + 1}: {name}" for name in other if not _same(one, other, name)
        ]
    left = [
        path for path in found.root.rglob("*") if path.name.startswith((".tmp-", "checkpoint-"))
    ]
    return different + [f"left behind: {path.relative_to(found.root)}" for path in left]


def _same_arrays(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(_same(one, other, name) for name in other)


def _same(one: dict[str, np.ndarray], other: dict[str, np.ndarray], name: str) -> bool:
    return one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name])


def _exported_outputs(run: RunDirectory, phase: int) -> dict[str, np.ndarray]:
    images = load_digits().test_set(range(10)).load_all()
    export = tf.saved_model.load(str(run.export / "digits" / str(phase + 1)))
    outputs = {}
    for signature in ("serving_default", "features", "nme"):
        found = export.signatures[signature](images=tf.constant(images))
        outputs |= {f"{signature}/{name}": tensor.numpy() for name, tensor in found.items()}
    return outputs
