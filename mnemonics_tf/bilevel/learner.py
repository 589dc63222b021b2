"""Exemplar-level learning: training new exemplars (Eq. 9) and adjusting old ones (Eq. 10).

Both are one loop. In an outer step some exemplars train a temporary model, the model is measured on
other data, and the exemplars that are meant to learn move against the gradient of that measure.
What differs is which rows learn and what they are measured on.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import tensorflow as tf

from mnemonics_tf.arrays import check_shapes
from mnemonics_tf.bilevel.batches import balanced_order, split_balanced
from mnemonics_tf.bilevel.objectives.base import Objective
from mnemonics_tf.bilevel.outer_optimizer import PixelOptimizer
from mnemonics_tf.randomness import numpy_generator
from mnemonics_tf.settings import OuterSettings, ValidationSettings

LOGGER = logging.getLogger(__name__)

#: a meta loss this many times the first one, or 1 where that one is less, counts as diverged
_DIVERGENCE = 10.0


@dataclasses.dataclass
class Exemplars:
    """Exemplars while they learn.

    Attributes:
        images: normalised, float32 `[n, h, w, c]`.
        labels: `[n]`.
        learns: bool `[n]`; the others stand beside them, unchanged, as Eq. 4b has it.
    """

    images: np.ndarray
    labels: np.ndarray
    learns: np.ndarray


class OuterBatches(Protocol):
    """What the exemplars of an outer step are measured on."""

    def batch(self, rows: np.ndarray, *key: str | int) -> dict[str, tf.Tensor]:
        """Returns the batch of the outer step that `key` names, as objectives take it.

        Args:
            rows: the exemplars of that step.
            *key: names it.
        """


class OuterData:
    """What a temporary model is measured on: a batch for every outer step.

    As many images of each class as long as the smallest one lasts, then of the others.

    Args:
        labels: of all there is to draw from, `[n]`.
        load: maps rows `[m]` to `image` or `feature`, as objectives take them.
        batch_size: m.
        seed: decides which rows come when.
    """

    def __init__(
        self,
        labels: np.ndarray,
        load: Callable[[np.ndarray], dict[str, tf.Tensor]],
        batch_size: int,
        seed: int,
    ):
        self._labels = labels
        self._load = load
        self._batch_size = batch_size
        self._seed = seed

    def batch(self, rows: np.ndarray, *key: str | int) -> dict[str, tf.Tensor]:
        """Returns the batch of the outer step that `key` names, whatever its exemplars are."""
        order = balanced_order(self._labels, numpy_generator(self._seed, *key, "outer"))
        drawn = order[: self._batch_size]
        return {**self._load(drawn), "label": tf.constant(self._labels[drawn])}


class Originals:
    """What exemplars are measured on that keep to the images they began as: these images.

    Args:
        exemplars: as they begin.
        load: maps rows of the exemplars `[m]` to `image` or `feature`, as objectives take them.
    """

    def __init__(self, exemplars: Exemplars, load: Callable[[np.ndarray], dict[str, tf.Tensor]]):
        self._labels = exemplars.labels
        self._learns = exemplars.learns
        self._load = load

    def batch(self, rows: np.ndarray, *key: str | int) -> dict[str, tf.Tensor]:
        """Returns the originals of those exemplars of a step that learn, and which these are."""
        places = np.flatnonzero(self._learns[rows]).astype(np.int32)
        chosen = rows[places]
        labels = tf.constant(self._labels[chosen])
        return {**self._load(chosen), "label": labels, "row": tf.constant(places)}


@dataclasses.dataclass(frozen=True)
class Companions:
    """What goes along with learning.

    Attributes:
        report: called after every outer step with its number, its metrics and the seconds it took.
        validate: score of exemplars, higher is better, on held-out training images; None leaves it
            out, and the newest exemplars are kept.
        prefers_start: whether what validates finds the start best where no score is higher.
        begin: called before the first step with the number of exemplars that learn, and of those
            that stand in a step.
        save: called after every outer step, before exemplars are judged, with its number and a
            function that returns what a checkpoint must hold; it decides whether to call it.
        resume: the step and the arrays that `save` was given, to go on from there; learning takes
            them over and changes them.
    """

    report: Callable[[int, dict[str, float], float], None]
    validate: Callable[[np.ndarray], float] | None = None
    prefers_start: bool = False
    begin: Callable[[int, int], None] | None = None
    save: Callable[[int, Callable[[], dict[str, np.ndarray]]], None] | None = None
    resume: tuple[int, dict[str, np.ndarray]] | None = None


@dataclasses.dataclass
class Course:
    """How learning went.

    Attributes:
        meta_losses: of every outer step.
        validations: pairs of outer step and held-out score.
        best: the exemplars with the best score so far. Where nothing validates these are the start
            until all steps are done, and the newest then: there is no telling when trouble began.
        prefers_start: whether the start is best where no score is higher.
        stopped: why learning ended before its last step, or None.
    """

    meta_losses: list[float]
    validations: list[tuple[int, float]]
    best: np.ndarray
    prefers_start: bool = False
    stopped: str | None = None

    @property
    def steps_kept(self) -> int:
        """How many outer steps the best exemplars have gone through; 0 where the start is best."""
        if not self.validations:
            return 0 if self.stopped else len(self.meta_losses)
        highest = max(score for _, score in self.validations)
        best = [step for step, score in self.validations if score == highest]
        if self.prefers_start and best[0] == 0:
            return 0
        # The later ones: held-out accuracy is coarse, and the meta loss went on falling.
        return best[-1]

    def state(self) -> dict[str, np.ndarray]:
        """Returns the course so far, for a checkpoint."""
        return {
            "meta_losses": np.array(self.meta_losses),
            "validations": np.array(self.validations).reshape(-1, 2),
            "best": self.best,
        }

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray], prefers_start: bool) -> "Course":
        """Returns what `state` described, with its arrays."""
        validations = [(int(step), float(score)) for step, score in state["validations"]]
        return cls(state["meta_losses"].tolist(), validations, state["best"], prefers_start)


class ExemplarLearner:
    """Learns exemplars by an objective.

    Args:
        objective: what they are measured by.
        outer: of the meta level; its steps and learning rate are those of this learner.
        validation: what chooses among exemplars while they learn.
        valid_range: smallest and largest valid value of each channel, `[c]` each.
        seed: of the run.
    """

    def __init__(
        self,
        objective: Objective,
        outer: OuterSettings,
        validation: ValidationSettings,
        valid_range: tuple[np.ndarray, np.ndarray],
        seed: int,
    ):
        self._objective = objective
        self._outer = outer
        self._validation = validation
        self._valid_range = valid_range
        self._seed = seed

    def train_new(
        self,
        exemplars: Exemplars,
        outer_data: OuterBatches,
        companions: Companions,
        *key: str | int,
    ) -> Course:
        """Trains the learning rows on the phase's data (Eq. 8, 9; Algorithm 1, line 11).

        Args:
            exemplars: E_i, and E_{0:i-1} as rows that do not learn.
            outer_data: D_i, or what else the objective asks for.
            companions: what goes along.
            *key: names the phase.
        """

        def step_data(step):
            rows = self._rows(np.arange(len(exemplars.labels)), exemplars.labels, *key, step)
            return rows, outer_data.batch(rows, *key, step)

        return self._learn(exemplars, step_data, companions, *key)

    def adjust_old(
        self,
        exemplars: Exemplars,
        num_subsets: int,
        companions: Companions,
        *key: str | int,
    ) -> Course:
        """Adjusts the learning rows, some of them measured on the rest (Eq. 10; lines 13-15).

        The subsets are class-balanced. Outer steps go round them: in its turn a subset trains the
        temporary model and moves, while its complement, as it stands by then, is what it is
        measured on. Rows that do not learn are split likewise: a temporary model that never saw a
        class would be measured on it, and the loss there would drown all others.

        Args:
            exemplars: E_{0:i-1}; rows that do not learn may stand beside them.
            num_subsets: how many; the paper has two, A and B.
            companions: what goes along.
            *key: names the phase.
        """
        subset = split_balanced(
            exemplars.labels, num_subsets, numpy_generator(self._seed, *key, "subsets")
        )

        def step_data(step):
            mine = np.flatnonzero(subset == step % num_subsets)
            others = np.flatnonzero(subset != step % num_subsets)
            rows = self._rows(mine, exemplars.labels, *key, step)
            order = balanced_order(
                exemplars.labels[others], numpy_generator(self._seed, *key, step, "outer")
            )
            chosen = others[order[: self._outer.outer_batch_size]]
            outer = {
                "image": tf.constant(exemplars.images[chosen]),
                "label": tf.constant(exemplars.labels[chosen]),
            }
            return rows, outer

        return self._learn(exemplars, step_data, companions, *key)

    def _rows(self, candidates: np.ndarray, labels: np.ndarray, *key: str | int) -> np.ndarray:
        """Returns the class-balanced rows that train the temporary model of one outer step.

        `check_step` has seen to it that each class has one.
        """
        size = self._outer.exemplars_per_step or len(candidates)
        order = balanced_order(labels[candidates], numpy_generator(self._seed, *key, "rows"))
        return np.sort(candidates[order[:size]])

    def _begin(
        self, exemplars: Exemplars, companions: Companions
    ) -> tuple[PixelOptimizer, int, Course]:
        """Returns optimiser, first step and course of learning, as a checkpoint holds them or new.

        Exemplars may be many: what they begin as is one array for the optimiser and the course, and
        those of a checkpoint are not copied.

        Args:
            exemplars: theirs are taken from the checkpoint too.
            companions: what goes along.
        """
        begun = exemplars.images
        optimizer = PixelOptimizer(self._outer, begun, *self._valid_range)
        prefers_start = companions.prefers_start
        if not companions.resume:
            exemplars.images = begun.copy()
            return optimizer, 0, Course([], [], begun, prefers_start)
        start, state = companions.resume
        shapes = {k: v.shape for k, v in optimizer.state().items()}
        shapes |= {"images": begun.shape, "best": begun.shape}
        check_shapes(state, shapes, "the checkpoint of learned exemplars")
        exemplars.images = state["images"]
        optimizer.set_state(state)
        return optimizer, start, Course.from_state(state, prefers_start)

    def _learn(self, exemplars, step_data, companions: Companions, *key) -> Course:
        """Takes the outer steps.

        Args:
            exemplars: of which some learn.
            step_data: maps an outer step to its rows of the exemplars and its outer batch.
            companions: what goes along.
            *key: names what is learned and the phase.
        """
        optimizer, start, course = self._begin(exemplars, companions)

        def measure(step, rows, outer):
            images = tf.constant(exemplars.images[rows])
            labels, learning = exemplars.labels[rows], exemplars.learns[rows]
            value, gradient = self._objective.value_and_gradient(
                images, labels, learning, outer, *key, step
            )
            return float(value), gradient.numpy()

        def state() -> dict[str, np.ndarray]:
            return {"images": exemplars.images, **optimizer.state(), **course.state()}

        self._judge(course, exemplars, companions.validate, start)
        for step in range(start, 0 if course.stopped else self._outer.outer_steps):
            started = time.monotonic()
            rows, outer = step_data(step)
            if step == start and companions.begin:
                companions.begin(int(exemplars.learns.sum()), len(rows))
            loss, gradient = measure(step, rows, outer)
            course.stopped = _trouble(loss, gradient, course.meta_losses)
            if course.stopped:
                LOGGER.warning(
                    "exemplar learning stopped at step %d: %s; the exemplars %s",
                    *(step, course.stopped),
                    f"of step {kept} are kept" if (kept := course.steps_kept) else "stay unlearned",
                )
                break
            course.meta_losses.append(loss)
            learning = exemplars.learns[rows]
            optimizer.apply(exemplars.images, rows[learning], gradient[learning], step)
            seconds = time.monotonic() - started
            metrics = {"meta_loss": loss, "images_per_second": len(rows) / seconds}
            if course.validations:
                metrics["held_out_accuracy"] = course.validations[-1][1]
            companions.report(step + 1, metrics, seconds)
            if companions.save:  # before exemplars are judged, which may take long
                companions.save(step + 1, state)
            self._judge(course, exemplars, companions.validate, step + 1)
            if course.stopped:
                break
        exemplars.images = course.best
        return course

    def _judge(self, course: Course, exemplars: Exemplars, validate, step: int) -> None:
        """Judges exemplars after so many steps, if it is their turn and they were not judged yet.

        Args:
            course: so far; `stopped` if there is no hope left.
            exemplars: as they are now.
            validate: their score, or None.
            step: how many were taken.
        """
        last = step == self._outer.outer_steps
        if validate is None:
            if last:
                course.best = exemplars.images
            return
        judged = {number for number, _ in course.validations}
        if step in judged or not (last or step % self._validation.validation_every == 0):
            return
        course.validations.append((step, validate(exemplars.images)))
        if course.steps_kept == step:
            course.best = exemplars.images.copy()
        if not last and self._out_of_patience(course):
            course.stopped = "held-out accuracy no longer rises"

    def _out_of_patience(self, course: Course) -> bool:
        if not self._validation.patience:
            return False
        scores = [score for _, score in course.validations]
        return len(scores) - 1 - scores.index(max(scores)) >= self._validation.patience


def _trouble(loss: float, gradient: np.ndarray, losses: list[float]) -> str | None:
    with np.errstate(over="ignore"):  # the optimiser squares the gradient
        finite = math.isfinite(loss) and np.all(np.isfinite(np.square(gradient)))
    if not finite:
        return (
            f"the meta loss is {loss} or its gradient is not finite: a temporary model that is "
            "trained diverges (lower --inner_learning_rate), or features are not finite"
        )
    if losses and loss > _DIVERGENCE * max(losses[0], 1.0):
        return f"the meta loss rose from {losses[0]:.3g} to {loss:.3g}"
    return None
