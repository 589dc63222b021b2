"""Exemplars of a phase's new classes: chosen, then learned (Algorithm 1, lines 10 and 11)."""

import dataclasses

import numpy as np

from mnemonics_tf.bilevel.objectives import on_originals
from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.errors import counted
from mnemonics_tf.exemplars.budget import check_last_share
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.phases.learn_new import (
    Made,
    are_few,
    learn_new,
    learns_beside_old,
    stay_as_chosen,
)
from mnemonics_tf.phases.new_classes import NewClasses
from mnemonics_tf.phases.quotas import Room
from mnemonics_tf.phases.select_exemplars import select_within
from mnemonics_tf.phases.state import Stage
from mnemonics_tf.phases.workshop import Workshop
from mnemonics_tf.randomness import some_of_each
from mnemonics_tf.settings import OuterSettings

#: classes of a phase, and exemplars of each, whose beginnings a run keeps for pictures
_STARTS_CLASSES = 40
_STARTS_PER_CLASS = 4


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
    room = Room(workshop.budget, phase.num_seen, memory)
    mnemonics = wanted.exemplars == "mnemonics"
    learn = mnemonics and _can_learn(workshop.settings.outer, phase)
    held_out, candidates = _hold_out(workshop, phase, images, room) if learn else (None, images)
    selection = wanted.mnemonics_start if mnemonics else wanted.exemplars
    rows = select_within(workshop, phase, candidates, model, selection, room)
    chosen = candidates.subset(rows)
    originals = chosen.load_all()
    memory = memory.extended(originals, chosen.labels)
    check_last_share(memory, workshop.budget, workshop.num_classes)  # before they learn
    if not learn:
        return Made(memory)
    new = NewClasses(workshop, phase, candidates, held_out, model, stage)
    made = learn_new(new, memory, originals)
    return dataclasses.replace(made, starts=_starts(originals, chosen.labels))


def _can_learn(outer: OuterSettings, phase: Phase) -> bool:
    """Whether the new classes tell enough of each other to learn from; says so where they don't.

    Departure from Eq. 7, which knows no such limit: with one or two new classes a phase, learned
    exemplars ended level with real ones or below (docs/exemplar_learning.md).
    """
    if on_originals(outer.objective):
        if are_few(phase) and outer.few_new_classes == "beside":
            LOGGER.info(
                "exemplars: each keeps to its own real image (--objective=%s): no old ones stand "
                "beside them",
                outer.objective,
            )
        return True
    if phase.num_seen == 1:
        LOGGER.warning(
            "exemplars: one class alone leaves nothing to discriminate: they stay as chosen"
        )
        return False
    if stay_as_chosen(outer, phase):
        LOGGER.info(
            "exemplars: %s would have to learn from too little: theirs stay as chosen "
            "(--few_new_classes=beside lets them learn beside old ones)",
            counted(phase.num_new, "new class"),
        )
        return False
    return True


def _hold_out(
    workshop: Workshop, phase: Phase, images: ImageSet, room: Room
) -> tuple[ImageSet | None, ImageSet]:
    """Returns training images set aside to judge learned exemplars by, and the rest.

    Args:
        workshop: of the run.
        phase: which.
        images: D_i.
        room: for exemplars of each new class: as many of its images remain candidates.
    """
    share = workshop.settings.validation.validation_share
    if not share:
        return None, images
    if phase.num_new == 1 and not learns_beside_old(workshop.settings.outer, phase):
        LOGGER.info(
            "exemplars: one class alone gives no judge anything to tell apart: those of the last "
            "outer step are kept"
        )
        return None, images
    counts = {}
    for label in phase.new_classes:
        members = images.indices_of(label)
        wanted = round(share * len(members))
        # Never so many that too few candidates remain.
        left = room.to_leave(images, members, len(members) - wanted)
        counts[label] = max(0, min(wanted, len(members) - left))
    held_out = some_of_each(images.labels, counts, workshop.exemplar_seed, "held out")
    if not held_out.any():
        LOGGER.warning(
            "exemplars: no image is held out to judge by (--validation), for the memory may hold "
            "all of each new class, or --validation_share=%g of a class is less than one: those of "
            "the last outer step are kept",
            share,
        )
        return None, images
    return images.subset(np.flatnonzero(held_out)), images.subset(np.flatnonzero(~held_out))


def _starts(images: np.ndarray, labels: np.ndarray) -> ExemplarMemory:
    """Returns a few images of some classes, evenly over them: enough for pictures, and small.

    They are the real ones, before any codec.
    """
    shown = np.unique(labels)
    shown = shown[np.linspace(0, len(shown) - 1, min(_STARTS_CLASSES, len(shown))).astype(int)]
    # The first ones of a class stay when a budget shrinks.
    rows = [np.flatnonzero(labels == label)[:_STARTS_PER_CLASS] for label in shown]
    kept = np.concatenate(rows)
    return ExemplarMemory(images[kept], labels[kept])
