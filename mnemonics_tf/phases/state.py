"""What changes while a phase runs, and what accompanies its stages: resuming and saving."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.monitoring.outlook import Outlook
from mnemonics_tf.monitoring.progress import StageProgress
from mnemonics_tf.monitoring.summaries import Summaries
from mnemonics_tf.run.checkpoints import PhaseCheckpoints, Snapshot
from mnemonics_tf.run.interruption import RunInterruptedError, StopRequest
from mnemonics_tf.settings import RunSettings
from mnemonics_tf.tracing import TRACES


@dataclasses.dataclass
class PhaseState:
    """What changes while a phase runs.

    Attributes:
        phase: which.
        training_set: D_i, in reach until the phase ends.
        old_model: Theta_{i-1}, frozen; None in phase 0.
        model: Theta_i.
        memory: the exemplars, old ones first and new ones once they are made.
        checkpoints: snapshots of this phase.
        stop: tells whether the program was asked to stop.
        run: settings of where and how.
        num_phases: N.
        summaries: for TensorBoard.
        outlook: tells how long training takes.
        resume: the snapshot this process began with, until its stage has gone on from it.
        seconds: time spent, by stage, over all processes that worked on the phase; that of tracing
            and compiling is counted as `tracing` instead.
        metrics: what stages found worth recording, by stage.
    """

    phase: Phase
    training_set: ImageSet
    old_model: IncrementalModel | None
    model: IncrementalModel
    memory: ExemplarMemory
    checkpoints: PhaseCheckpoints
    stop: StopRequest
    run: RunSettings
    num_phases: int
    summaries: Summaries
    outlook: Outlook
    resume: Snapshot | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
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
            "memory": self.memory.arrays(),
            "seconds": {name: np.array(value) for name, value in self.seconds.items()},
            "metrics": {"json": np.array(json.dumps(self.metrics))},
        }
        self.checkpoints.save(Snapshot(stage, position, {**groups, **(extra or {})}))
        self._saved = time.monotonic()

    def stage(self, name: str) -> "Stage":
        """Returns what accompanies the stage of this name."""
        return Stage(self, name)

    def save_if_due(
        self,
        due: bool,
        stage: str,
        position: int,
        extra: Callable[[], dict[str, dict[str, np.ndarray]]],
    ) -> None:
        """Writes a checkpoint if one is due, or a stop was asked for.

        Args:
            due: whether one is due whatever the newest's age.
            stage: as for `save_snapshot`.
            position: as for `save_snapshot`.
            extra: returns the groups of arrays of the stage's own.

        Raises:
            RunInterruptedError: if a stop was asked for; the checkpoint is written.
        """
        stops = self.stop.agreed()
        age = time.monotonic() - self._saved
        if stops or due or age > 60 * self.run.checkpoint_minutes:
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
            self.memory = ExemplarMemory.from_arrays(
                snapshot.groups["memory"],
                "the checkpoint of the exemplars",
                self.checkpoints.directory,
                self.memory.codec,
            )
            seconds = snapshot.groups["seconds"]
            self.seconds = {name: float(value) for name, value in seconds.items()}
            self.metrics = json.loads(str(snapshot.groups["metrics"]["json"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"the checkpoint of phase {self.phase.index} does not hold what this version "
                f"writes ({type(error).__name__}: {error}): remove it, or pass another --run_dir"
            ) from error


class Stage:
    """What accompanies one stage of a phase: where it goes on, its progress and its checkpoints.

    Args:
        state: of the phase.
        name: of the stage.

    Attributes:
        name: of the stage.
        summaries: for TensorBoard.
    """

    def __init__(self, state: PhaseState, name: str):
        self.name = name
        self.summaries = state.summaries
        self._state = state

    @property
    def resumed(self) -> Snapshot | None:
        """The checkpoint within this stage that it goes on from, or None at its beginning."""
        snapshot = self._state.resume
        return snapshot if snapshot and snapshot.position else None

    def note(self, metrics: dict[str, Any]) -> None:
        """Keeps what is worth recording of the stage, in its checkpoints too."""
        self._state.metrics[self.name] = metrics

    @property
    def noted(self) -> dict[str, Any]:
        """What was noted last, by an earlier process perhaps."""
        return self._state.metrics.get(self.name, {})

    def progress(self, total: int, start: float = 0, unit: str = "epoch") -> StageProgress:
        """Returns what reports how far the stage is.

        Args:
            total: how many epochs or steps it has.
            start: where this process begins.
            unit: what is counted.
        """
        phase = self._state.phase.index
        return StageProgress(phase, self._state.num_phases, self.name, total, start, unit)

    def show(self, metrics: dict[str, float], step: int, before: int) -> None:
        """Shows numbers in TensorBoard.

        Args:
            metrics: by name.
            step: within the stage of this phase: epoch or outer step.
            before: steps that the stage had in all earlier phases.
        """
        self.summaries.course(self.name, self._state.phase.index, metrics, step, before)

    def unrecorded(self, name: str) -> "Stage":
        """Returns what accompanies work beside this stage that leaves no trace.

        Args:
            name: of the work.
        """
        return _Unrecorded(self._state, name)

    def epoch_done(self, share: float, seconds: float, done: float) -> None:
        """Tells how long training takes, as soon as it can be told.

        Args:
            share: of the stage that is done.
            seconds: that this process has worked on it.
            done: the share of the stage that it did.
        """
        phase = self._state.phase.index
        self._state.outlook.epoch_done(self.name, phase, share, seconds, done)

    def save_if_due(
        self, every: int, done: int, position: int, extra: Callable[[], dict[str, dict]]
    ) -> None:
        """Writes a checkpoint if one is due, or a stop was asked for.

        Args:
            every: how many of `done` make one due; 0: time alone.
            done: epochs or steps done as a whole; 0 within one.
            position: from which the stage would go on.
            extra: returns the groups of arrays of the stage's own.

        Raises:
            RunInterruptedError: if a stop was asked for; the checkpoint is written.
        """
        due = bool(every) and done > 0 and done % every == 0
        self._state.save_if_due(due, self.name, position, extra)


class _Unrecorded(Stage):
    """Work beside a stage: begins anew in every process, and is neither recorded nor saved."""

    def __init__(self, state: PhaseState, name: str):
        super().__init__(state, name)
        self._noted: dict[str, Any] = {}

    @property
    def resumed(self) -> None:
        return None

    def note(self, metrics: dict[str, Any]) -> None:
        self._noted = metrics

    @property
    def noted(self) -> dict[str, Any]:
        return self._noted

    def show(self, metrics: dict[str, float], step: int, before: int) -> None:
        del metrics, step, before

    def epoch_done(self, share: float, seconds: float, done: float) -> None:
        del share, seconds, done

    def save_if_due(
        self, every: int, done: int, position: int, extra: Callable[[], dict[str, dict]]
    ) -> None:
        """Gives the work up if a stop was asked for: the stage has its own checkpoint."""
        del every, done, position, extra
        if self._state.stop.agreed():
            raise RunInterruptedError
