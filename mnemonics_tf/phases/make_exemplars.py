"""Exemplars of a phase's new classes: chosen, then learned (Algorithm 1, lines 10 and 11)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mnemonics_tf.bilevel.learner import Course, Exemplars, OuterData
from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.pipeline import concatenate
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.errors import counted
from mnemonics_tf.evaluation.probe import probe_accuracy
from mnemonics_tf.exemplars.budget import make_budget
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.monitoring import diagnostics
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.phases.learning import as_exemplars, companions, learner, with_learned
from mnemonics_tf.phases.pool import drifted_copies
from mnemonics_tf.phases.rehearsal import rehearsal, rehearsed
from mnemonics_tf.phases.select_exemplars import expected_number, select, select_within
from mnemonics_tf.phases.state import Stage
from mnemonics_tf.phases.workshop import Workshop
from mnemonics_tf.randomness import numpy_generator

#: classes of a phase, and exemplars of each, whose beginnings a run keeps for pictures
_STARTS_CLASSES = 40
_STARTS_PER_CLASS = 4

#: so many new classes tell enough of each other; fewer learn beside the old ones
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


def make_exemplars(
    workshop: Workshop,
    phase: Phase,
    images: ImageSet,
    memory: ExemplarMemory,
    model: IncrementalModel,
    stage: Stage,
) -> Made:
    """Makes the exemplars of the new classes: a selection, then learning where asked for.

    Args:
        workshop: of the run.
        phase: which.
        images: D_i.
        memory: of the old classes.
        model: Theta_i.
        stage: resumes, shows and saves.
    """
    wanted = workshop.settings.exemplar
    budget = make_budget(wanted)
    learned = wanted.exemplars == "mnemonics"
    quota = expected_number(budget, phase, images, memory) if learned else None
    held_out, candidates = _hold_out(workshop, phase, images, quota)
    selection = wanted.mnemonics_start if learned else wanted.exemplars
    rows = select_within(workshop, phase, candidates, model, selection, budget, memory)
    chosen = candidates.subset(rows)
    memory = memory.extended(chosen.load_all(), chosen.labels)
    if not learned:
        return Made(memory)
    if phase.num_seen == 1:
        LOGGER.warning(
            "exemplars: one class alone leaves nothing to discriminate: they stay as chosen"
        )
        return Made(memory)
    made = _train_new(workshop, phase, memory, candidates, held_out, model, stage)
    return dataclasses.replace(made, starts=_starts(memory, phase.new_classes))


def _starts(memory: ExemplarMemory, classes: Sequence[int]) -> ExemplarMemory:
    """Returns a few exemplars of some classes, evenly over them: enough for pictures, and small."""
    shown = np.asarray(classes)
    shown = shown[np.linspace(0, len(shown) - 1, min(_STARTS_CLASSES, len(shown))).astype(int)]
    # The first ones of a class stay when a budget shrinks.
    rows = [np.flatnonzero(memory.labels == label)[:_STARTS_PER_CLASS] for label in shown]
    kept = np.concatenate(rows)
    return ExemplarMemory(memory.images_at(kept), memory.labels[kept])


def _hold_out(
    workshop: Workshop, phase: Phase, images: ImageSet, quota: int | None
) -> tuple[ImageSet | None, ImageSet]:
    """Returns training images set aside to judge learned exemplars by, and the rest.

    Without a quota (nothing is learned) all images remain candidates.
    """
    share = workshop.settings.validation.validation_share
    if quota is None or not share:
        return None, images
    held_out = np.zeros(len(images), bool)
    for label in phase.new_classes:
        members = images.indices_of(label)
        # Never so many that too few candidates remain.
        count = max(0, min(round(share * len(members)), len(members) - quota))
        generator = numpy_generator(workshop.exemplar_seed, "held out", label)
        held_out[generator.permutation(members)[:count]] = True
    if not held_out.any():
        return None, images
    return images.subset(np.flatnonzero(held_out)), images.subset(np.flatnonzero(~held_out))


def _train_new(
    workshop: Workshop,
    phase: Phase,
    memory: ExemplarMemory,
    candidates: ImageSet,
    held_out: ImageSet | None,
    model: IncrementalModel,
    stage: Stage,
) -> Made:
    """Trains E_i on D_i (Eq. 8, 9).

    E_i and D_i are alone in it, as Eq. 7 has them. With `train_beside_old` the old exemplars stand
    in the inner batches and beside D_i in the outer ones, and do not learn: that is Problem 4b.

    Departure from Eq. 7: where a phase brings fewer than three classes they stand there too, for
    E_i alone would have next to nothing to discriminate (one class has a loss of zero), and
    exemplars are validated beside them.
    """
    settings, evaluator = workshop.settings, workshop.evaluator(model)
    outer = settings.outer
    new = memory.labels >= phase.num_old
    few = _are_few(phase)
    rows, judges = _beside(workshop, phase, memory, held_out)
    exemplars = as_exemplars(workshop, memory, rows, new)
    old = memory.as_image_set().subset(rows[~new[rows]])
    quota = int(np.sum(new)) // phase.num_new
    network, members = model, []
    if settings.inner.inner_start == "pool":
        network = workshop.copy_of(model, "pool")
        members = drifted_copies(workshop, phase, model, network, candidates, old, quota)
    outer_data = _outer_data(workshop, network, members, concatenate([candidates, old]))
    validate: Callable[[np.ndarray], float] | None
    rehearses = _rehearses(workshop, phase, held_out)
    if held_out and rehearses:
        score = rehearsal(workshop, phase, candidates, held_out, model, stage)

        def validate(images: np.ndarray) -> float:
            now = dataclasses.replace(exemplars, images=images)
            return score(with_learned(workshop, memory, rows, now))  # as it will be stored
    else:
        validate = _probe(workshop, model, exemplars, judges, few)
    course = learner(workshop, network, members, outer, len(rows)).train_new(
        exemplars,
        outer_data,
        companions(workshop, stage, outer.outer_steps, max(1, len(members)), validate),
        stage.name,
        phase.index,
    )
    learned = with_learned(workshop, memory, rows, exemplars)
    change = diagnostics.measure_change(model, evaluator, memory, learned, new)
    metrics = diagnostics.metrics(course, change)
    if validate:
        kept = dict(course.validations)[course.steps_kept]
        rounded = workshop.pipeline.normalization.normalize(learned.images[rows]).numpy()
        metrics["held_out_accuracy"] = {
            "start": course.validations[0][1],
            "float": kept,
            "uint8": kept if rehearses else validate(rounded),
        }
        _tell_what_helped(course)
    margins_herding = None
    if settings.exemplar.mnemonics_start != "herding":
        herded = candidates.subset(select(workshop, phase, candidates, model, "herding", quota))
        margins_herding = diagnostics.feature_margins(model, evaluator, herded)
        metrics["margin_herding"] = float(margins_herding.mean())
    before = phase.index * outer.outer_steps
    diagnostics.show(
        *(stage.summaries, stage.name, phase.index, course, change, before),
        *(margins_herding, metrics.get("held_out_accuracy")),
    )
    return Made(learned, metrics, exemplars)


def _rehearses(workshop: Workshop, phase: Phase, held_out: ImageSet | None) -> bool:
    """Whether a rehearsal of the next phase judges, and says so where it can't."""
    if not held_out or workshop.settings.validation.validation != "rehearsal":
        return False
    if rehearsed(phase):
        return True
    LOGGER.info("exemplars: one new class leaves none to rehearse with: the probe judges instead")
    return False


def _are_few(phase: Phase) -> bool:
    """Whether the new classes alone would tell too little of each other."""
    return phase.num_old > 0 and phase.num_new < _ENOUGH_CLASSES


def _beside(
    workshop: Workshop, phase: Phase, memory: ExemplarMemory, held_out: ImageSet | None
) -> tuple[np.ndarray, ImageSet | None]:
    """Returns which exemplars take part in learning, and what those that learn are judged by.

    Where old ones take part because new classes are few, some of them are set aside as judges: of
    each class the last ones, which are the least typical; of a class with a single one none.

    Args:
        workshop: of the run.
        phase: which.
        memory: of all classes.
        held_out: training images of the new classes that judge, or None.
    """
    wanted = workshop.settings
    old = memory.labels < phase.num_old
    if not _are_few(phase):
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
        held_out = concatenate([held_out, memory.as_image_set().subset(np.flatnonzero(judges))])
    return np.flatnonzero(~judges), held_out


def _tell_what_helped(course: Course) -> None:
    """Says whether what was learned is kept, by the held-out accuracies that decided it."""
    scores = dict(course.validations)
    steps, start = len(course.meta_losses), course.validations[0][1]
    if course.steps_kept:
        LOGGER.info(
            "exemplars: held-out accuracy %.3f at the start, %.3f after %d of %d steps, which are "
            "kept",
            *(start, scores[course.steps_kept], course.steps_kept, steps),
        )
        return
    later = [score for step, score in course.validations if step > 0]
    LOGGER.warning(
        "exemplars: learning did not help: held-out accuracy was %.3f at the start and at best %s "
        "in %d steps; the exemplars stay as they were chosen",
        *(start, f"{max(later):.3f}" if later else "unknown", steps),
    )


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
        evaluator = workshop.evaluator(network, plain=bool(members))
        features = []
        turns: list[dict[str, np.ndarray] | None] = [*members] or [None]
        for member in turns:
            if member is not None:
                network.set_state(member)
            features.append(evaluator.outputs(images).features)
        stacked = np.stack(features, axis=1)

        def load(rows):
            return {"feature": tf.constant(stacked[rows])}
    else:

        def load(rows):
            pixels = images.subset(rows).load_all()
            return {"image": workshop.pipeline.normalization.normalize(pixels)}

    return OuterData(images.labels, load, settings.outer.outer_batch_size, workshop.exemplar_seed)


def _probe(
    workshop: Workshop,
    model: IncrementalModel,
    exemplars: Exemplars,
    held_out: ImageSet | None,
    beside_old: bool,
) -> Callable[[np.ndarray], float] | None:
    """Returns the score of the learning exemplars on held-out training images, or None.

    Args:
        workshop: of the run.
        model: Theta_i.
        exemplars: of which some learn.
        held_out: images to be told apart.
        beside_old: whether those that do not learn belong to the exemplars that are judged. Each
            class then counts as much, for there are few images of old ones.
    """
    if held_out is None:
        return None
    evaluator = workshop.evaluator(model)
    held_out_features = evaluator.outputs(held_out).features
    judged = np.ones_like(exemplars.learns) if beside_old else exemplars.learns
    labels = exemplars.labels[judged]

    def validate(images: np.ndarray) -> float:
        features = evaluator.features_of_pixels(images[judged])
        return probe_accuracy(features, labels, held_out_features, held_out.labels, beside_old)

    return validate
