"""What the parts of a run share: the run's fixed context, and a phase's changing state."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from mnemonics_tf import devices
from mnemonics_tf.data.access import PhaseData
from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.pipeline import Pipeline
from mnemonics_tf.data.protocol import ClassIncrementalProtocol, Phase
from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluation.evaluator import Evaluator
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.methods.base import Method
from mnemonics_tf.models.incremental import Architecture, IncrementalModel
from mnemonics_tf.monitoring.summaries import Summaries
from mnemonics_tf.run.checkpoints import PhaseCheckpoints, Snapshot
from mnemonics_tf.run.files import RunDirectory
from mnemonics_tf.run.interruption import RunInterruptedError, StopRequest
from mnemonics_tf.settings import Settings
from mnemonics_tf.tracing import TRACES
from mnemonics_tf.training.loop import TrainingLoop


@dataclasses.dataclass(frozen=True)
class RunContext:
    """What stays the same from the first phase to the last.

    Attributes:
        settings: of the run.
        protocol: which class comes when.
        data: the gate to the phases' images.
        method: how the model learns.
        architecture: of the model.
        pipeline: makes batches.
        strategy: the distribution strategy everything runs in.
        directory: where everything is written.
        summaries: for TensorBoard.
        loops: model-level training loops, whose graphs go through all phases.
        temporary_models: the same for exemplar learning.
    """

    settings: Settings
    protocol: ClassIncrementalProtocol
    data: PhaseData
    method: Method
    architecture: Architecture
    pipeline: Pipeline
    strategy: tf.distribute.Strategy
    directory: RunDirectory
    summaries: Summaries
    loops: dict[tuple, TrainingLoop] = dataclasses.field(default_factory=dict)
    temporary_models: dict[tuple, Any] = dataclasses.field(default_factory=dict)

    @property
    def exemplar_seed(self) -> int:
        """The seed of exemplar choice and learning."""
        seed = self.settings.exemplar.exemplar_seed
        return self.seed if seed < 0 else seed

    @property
    def jit_compile(self) -> bool:
        """Whether XLA compiles training steps and evaluation."""
        return devices.compiles(self.settings.run.jit_compile)

    @property
    def jit_compile_exemplars(self) -> bool:
        """Whether XLA compiles the inner loop of exemplar learning."""
        single = self.strategy.num_replicas_in_sync == 1
        return single and devices.compiles(self.settings.run.jit_compile_exemplars)

    @property
    def seed(self) -> int:
        """The seed of everything but the class order."""
        return self.settings.protocol.seed


@dataclasses.dataclass
class PhaseState:
    """What changes while a phase runs.

    Attributes:
        phase: which.
        training_set: D_i, in reach until the phase ends.
        old_model: Theta_{i-1}, frozen; None in phase 0.
        model: Theta_i.
        evaluator: runs Theta_i as it stands.
        memory: the exemplars, old ones first and new ones once they are made.
        checkpoints: snapshots of this phase.
        stop: tells whether the program was asked to stop.
        resume: the snapshot this process began with, until its stage has gone on from it.
        seconds: time spent, by stage, over all processes that worked on the phase; that of tracing
            and compiling is counted as `tracing` instead.
        figures: what stages found worth recording, by stage.
    """

    phase: Phase
    training_set: ImageSet
    old_model: IncrementalModel | None
    model: IncrementalModel
    evaluator: Evaluator
    memory: ExemplarMemory
    checkpoints: PhaseCheckpoints
    stop: StopRequest
    resume: Snapshot | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    _clock: tuple[str, float, float] | None = None
    _saved: float = dataclasses.field(default_factory=time.monotonic)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the time spent within to the stage's seconds, and to every snapshot on the way."""
        self._clock = (stage, time.monotonic(), TRACES.seconds)
        yield
        self._add_elapsed()
        self._clock = None

    def _add_elapsed(self) -> None:
        if not self._clock:
            return
        stage, since, traced_before = self._clock
        now, traced = time.monotonic(), TRACES.seconds
        tracing = traced - traced_before
        for name, spent in ((stage, now - since - tracing), ("tracing", tracing)):
            self.seconds[name] = self.seconds.get(name, 0.0) + spent
        self._clock = (stage, now, traced)

    def save_snapshot(
        self, stage: str, position: int, extra: dict[str, dict[str, np.ndarray]] | None = None
    ) -> None:
        """Writes a checkpoint from which `restore` goes on.

        Args:
            stage: name of the stage that is in progress.
            position: how much of it is done.
            extra: groups of arrays of the stage's own.
        """
        self._add_elapsed()
        groups = {
            "model": self.model.state(),
            "memory": {"images": self.memory.images, "labels": self.memory.labels},
            "seconds": {name: np.array(value) for name, value in self.seconds.items()},
            "figures": {"json": np.array(json.dumps(self.figures))},
        }
        self.checkpoints.save(Snapshot(stage, position, {**groups, **(extra or {})}))
        self._saved = time.monotonic()

    def save_if_due(
        self,
        minutes: float,
        due: bool,
        stage: str,
        position: int,
        extra: Callable[[], dict[str, dict[str, np.ndarray]]],
    ) -> None:
        """Writes a checkpoint if one is due, or a stop was asked for.

        Args:
            minutes: how old the newest may be.
            due: whether one is due whatever the newest's age.
            stage: as for `save_snapshot`.
            position: as for `save_snapshot`.
            extra: returns the groups of arrays of the stage's own.

        Raises:
            RunInterruptedError: if a stop was asked for; the checkpoint is written.
        """
        stops = self.stop.agreed()
        if stops or due or time.monotonic() - self._saved > 60 * minutes:
            self.save_snapshot(stage, position, extra())
        if stops:
            raise RunInterruptedError

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to where a snapshot was taken.

        Raises:
            UserError: if it holds other things than `save_snapshot` writes.
        """
        self.resume = snapshot
        try:
            self.model.set_state(snapshot.groups["model"], "the checkpoint of the model")
            memory = snapshot.groups["memory"]
            self.memory = ExemplarMemory(memory["images"], memory["labels"], self.memory.directory)
            seconds = snapshot.groups["seconds"]
            self.seconds = {name: float(value) for name, value in seconds.items()}
            self.figures = json.loads(str(snapshot.groups["figures"]["json"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"the checkpoint of phase {self.phase.index} does not hold what this version "
                f"writes ({type(error).__name__}: {error}): remove it, or pass another --run_dir"
            ) from error
