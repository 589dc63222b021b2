"""Exemplars of new classes learn on the images of their phase (Eq. 8, 9)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mnemonics_tf.bilevel.learner import Course, Exemplars, Originals, OuterBatches, OuterData
from mnemonics_tf.bilevel.objectives import on_originals
from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.pipeline import concatenate
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.errors import counted
from mnemonics_tf.evaluation.evaluator import Evaluator
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.exemplars.storage import first_rows
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.monitoring import diagnostics
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.phases.judge import Judge, by_probe, by_rehearsal, rehearses, tell_what_helped
from mnemonics_tf.phases.learning import (
    as_exemplars,
    companions,
    learner,
    tell_where_none_fits,
    where_one_fits,
    with_learned,
)
from mnemonics_tf.phases.new_classes import NewClasses
from mnemonics_tf.phases.pool import drifted_copies
from mnemonics_tf.phases.select_exemplars import select
from mnemonics_tf.phases.workshop import Workshop
from mnemonics_tf.settings import OuterSettings

#: so many new classes tell enough of each other
_ENOUGH_CLASSES = 3


@dataclasses.dataclass(frozen=True)
class Made:
    """What became of the memory.

    Attributes:
        memory: with the new classes' exemplars.
        metrics: of their learning; None if they did not learn.
        unrounded: the exemplars that learned, and those beside them, before rounding, or None.
        starts: what some of those that learned began as; None if none learned.
    """

    memory: ExemplarMemory
    metrics: dict[str, Any] | None = None
    unrounded: Exemplars | None = None
    starts: ExemplarMemory | None = None


def learn_new(new: NewClasses, memory: ExemplarMemory, originals: np.ndarray) -> Made:
    """Trains E_i on D_i (Eq. 8, 9).

    E_i and D_i are alone in it, as Eq. 7 has them. With `train_beside_old` the old exemplars stand
    in the inner batches and beside D_i in the outer ones, and do not learn: that is Problem 4b.

    So it is too where a phase brings one or two classes and `few_new_classes` asks for it: E_i
    alone would have next to nothing to discriminate, and exemplars are validated beside old
    ones.

    Where a codec loses something, exemplars learn from what they were before it, and through it as
    far as it has a derivative. Some objectives take them for measure, too.

    Args:
        new: the classes whose exemplars learn.
        memory: of all classes, those of the new ones as they were chosen.
        originals: the images chosen for the new ones, before any codec, uint8 `[n, h, w, c]`.
    """
    workshop, phase, stage = new.workshop, new.phase, new.stage
    outer = workshop.settings.outer
    anchored = on_originals(outer.objective)
    few = are_few(phase) and learns_beside_old(outer, phase)
    rehearse = rehearses(new, memory)
    rows, judging = _beside(workshop, phase, memory, None if rehearse else new.held_out, few)
    exemplars = as_exemplars(workshop, memory, rows, memory.labels >= phase.num_old)
    normalize = workshop.pipeline.normalization.normalize_on_host
    exemplars.images[exemplars.learns] = normalize(originals)
    old = memory.as_image_set(rows[memory.labels[rows] < phase.num_old])
    network, members = new.model, []
    if workshop.settings.inner.inner_start == "pool":
        network = workshop.copy_of(new.model, "pool")
        members = _pool(new, network, old, _quota(phase, memory))
    outer_data: OuterBatches = (
        _originals(workshop, network, members, exemplars)
        if anchored
        else _outer_data(workshop, network, members, concatenate([new.candidates, old]))
    )

    def stored(images: np.ndarray) -> ExemplarMemory:
        now = dataclasses.replace(exemplars, images=images)
        return where_one_fits(workshop, with_learned(workshop, memory, rows, now), memory)

    judge: Judge | None = None
    if rehearse:
        judge = by_rehearsal(new, stored)
    elif judging:
        judge = by_probe(new, exemplars, rows, stored, judging, few)
    num_outer = len(rows) if anchored else len(new.candidates) + len(old)
    course = learner(workshop, network, members, outer, len(rows), num_outer).train_new(
        exemplars,
        outer_data,
        companions(*(workshop, stage, outer.outer_steps, max(1, len(members)), judge)),
        stage.name,
        phase.index,
    )
    tell_where_none_fits(workshop, with_learned(workshop, memory, rows, exemplars))
    learned = stored(exemplars.images)
    return Made(learned, _told(new, course, memory, learned), exemplars)


def _pool(
    new: NewClasses, network: IncrementalModel, old: ImageSet, quota: int
) -> list[dict[str, np.ndarray]]:
    """Returns the pool's members.

    Args:
        new: the classes whose exemplars learn.
        network: a copy of Theta_i, which is trained.
        old: the old exemplars that take part.
        quota: exemplars of a new class.
    """
    # As many as an epoch of a fine-tune sees; a copy sees the same ones in all epochs.
    if replayed := new.workshop.settings.training.replay_per_class:
        quota, old = min(quota, replayed), old.subset(first_rows(old.labels, replayed))
    return drifted_copies(
        new.workshop, new.phase, new.model, network, new.candidates, old, quota, new.stage
    )


def _quota(phase: Phase, memory: ExemplarMemory) -> int:
    """Returns how many exemplars a new class has."""
    return int(np.sum(memory.labels >= phase.num_old)) // phase.num_new


def are_few(phase: Phase) -> bool:
    """Whether the new classes of a later phase alone tell too little of each other."""
    return phase.num_old > 0 and phase.num_new < _ENOUGH_CLASSES


def stay_as_chosen(outer: OuterSettings, phase: Phase) -> bool:
    """Whether the exemplars of a few new classes do not learn, for want of what to learn from."""
    return are_few(phase) and not outer.train_beside_old and outer.few_new_classes == "stay"


def learns_beside_old(outer: OuterSettings, phase: Phase) -> bool:
    """Whether old exemplars stand beside new ones where these learn from each other."""
    if on_originals(outer.objective):  # each learns from its own real image
        return False
    return outer.train_beside_old or (are_few(phase) and outer.few_new_classes == "beside")


def _beside(
    workshop: Workshop,
    phase: Phase,
    memory: ExemplarMemory,
    held_out: ImageSet | None,
    few: bool,
) -> tuple[np.ndarray, ImageSet | None]:
    """Returns which exemplars take part in learning, and what those that learn are judged by.

    Where old ones take part because new classes are few, some of them are set aside as judges: of
    each class the last ones, which are the least typical; of a class with a single one none.

    Args:
        workshop: of the run.
        phase: which.
        memory: of all classes.
        held_out: training images of the new classes that judge, or None.
        few: whether old ones take part because new classes are few.
    """
    wanted = workshop.settings
    old = memory.labels < phase.num_old
    if not few:
        takes_part = np.ones_like(old) if wanted.outer.train_beside_old else ~old
        return np.flatnonzero(takes_part), held_out
    judges = np.zeros_like(old)
    for label in range(phase.num_old if held_out else 0):
        members = np.flatnonzero(memory.labels == label)
        share = round(wanted.validation.validation_share * len(members))
        count = min(max(1, share), len(members) - 1)
        judges[members[len(members) - count :]] = True
    LOGGER.info(
        "exemplars: those of %s learn beside %s of %s",
        counted(phase.num_new, "new class"),
        counted(int(np.sum(old & ~judges)), "exemplar"),
        counted(phase.num_old, "old class"),
    )
    if held_out:
        held_out = concatenate([held_out, memory.as_image_set(np.flatnonzero(judges))])
    return np.flatnonzero(~judges), held_out


def _outer_data(
    workshop: Workshop,
    network: IncrementalModel,
    members: Sequence[dict[str, np.ndarray]],
    images: ImageSet,
) -> OuterData:
    """Returns D_i for the outer loss: its features, computed once, where only they are needed.

    Args:
        workshop: of the run.
        network: takes on the weights of the members; Theta_i itself where there are none.
        members: of the pool.
        images: D_i, and the old exemplars where they stand beside it.
    """
    settings = workshop.settings
    if settings.inner.inner_scope == "classifier":
        stacked = _by_member(*(workshop, network, members, lambda model: model.features(images)))

        def load(rows):
            return {"feature": tf.constant(stacked[rows])}
    else:

        def load(rows):
            pixels = images.subset(rows).load_all()
            return {"image": workshop.pipeline.normalization.normalize(pixels)}

    return OuterData(images.labels, load, settings.outer.outer_batch_size, workshop.exemplar_seed)


def _originals(
    workshop: Workshop,
    network: IncrementalModel,
    members: Sequence[dict[str, np.ndarray]],
    exemplars: Exemplars,
) -> Originals:
    """Returns the exemplars as they begin, for those that learn to be measured on.

    Args:
        workshop: of the run.
        network: takes on the weights of the members; Theta_i itself where there are none.
        members: of the pool.
        exemplars: before they learn.
    """
    features = _by_member(
        *(workshop, network, members, lambda model: model.features_of_pixels(exemplars.images))
    )
    return Originals(exemplars, lambda rows: {"feature": tf.constant(features[rows])})


def _by_member(
    workshop: Workshop,
    network: IncrementalModel,
    members: Sequence[dict[str, np.ndarray]],
    features_by: Callable[[Evaluator], np.ndarray],
) -> np.ndarray:
    """Returns features by every member of a pool, `[n, members, d]`; by the network if it is empty.

    Args:
        workshop: of the run.
        network: takes on the weights of the members.
        members: of the pool.
        features_by: what the evaluator of the network is asked for, `[n, d]`.
    """
    evaluator = workshop.evaluator(network, plain=bool(members))
    features = []
    turns: list[dict[str, np.ndarray] | None] = [*members] or [None]
    for member in turns:
        if member is not None:
            network.set_state(member)
        features.append(features_by(evaluator))
    return features[0][:, None] if len(features) == 1 else np.stack(features, axis=1)


def _told(
    new: NewClasses,
    course: Course,
    memory: ExemplarMemory,
    learned: ExemplarMemory,
) -> dict[str, Any]:
    """Shows and returns the figures of learning.

    Args:
        new: the classes whose exemplars learned.
        course: how it went.
        memory: before.
        learned: the memory afterwards.
    """
    workshop, phase, model, stage = new.workshop, new.phase, new.model, new.stage
    evaluator = workshop.evaluator(model)
    learns = memory.labels >= phase.num_old
    change = diagnostics.measure_change(model, evaluator, memory, learned, learns)
    metrics = diagnostics.metrics(course, change)
    if course.validations:
        scores = dict(course.validations)
        metrics["held_out_accuracy"] = {"start": scores[0], "stored": scores[course.steps_kept]}
        tell_what_helped(course)
    margins_herding = None
    if workshop.settings.exemplar.mnemonics_start != "herding":
        quota = _quota(phase, memory)
        chosen = select(workshop, phase, new.candidates, model, "herding", quota)
        herded = new.candidates.subset(chosen)
        margins_herding = diagnostics.feature_margins(model, evaluator, herded)
        metrics["margin_herding"] = diagnostics.mean_margin(margins_herding)
    before = phase.index * workshop.settings.outer.outer_steps
    diagnostics.show(
        *(stage.summaries, stage.name, phase.index, course, change, before),
        *(margins_herding, metrics.get("held_out_accuracy")),
    )
    return metrics
