"""Which images become exemplars: a selection, as far as the budget goes (Algorithm 1, line 10)."""

from collections.abc import Callable, Iterator

import numpy as np

from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.exemplars.budget import refuse_too_few_bytes
from mnemonics_tf.exemplars.selection import NEED_FEATURES, SELECTIONS
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.monitoring.progress import watched
from mnemonics_tf.phases.quotas import Room
from mnemonics_tf.phases.workshop import Workshop
from mnemonics_tf.randomness import numpy_generator
from mnemonics_tf.registry import find


def select(
    workshop: Workshop,
    phase: Phase,
    images: ImageSet,
    model: IncrementalModel,
    selection: str,
    quota: int,
) -> np.ndarray:
    """Returns indices into `images`: at most `quota` a new class, best first within a class.

    Args:
        workshop: of the run.
        phase: whose new classes.
        images: to choose from.
        model: gives features where the selection needs them.
        selection: its name.
        quota: exemplars of a class.
    """
    ranked = [
        _ranking(workshop, images, label, model, selection)(quota) for label in _watched(phase)
    ]
    return np.concatenate(ranked)


def select_within(
    workshop: Workshop,
    phase: Phase,
    images: ImageSet,
    model: IncrementalModel,
    selection: str,
    room: Room,
) -> np.ndarray:
    """Returns what `select` does, with as many images of a class as there is room for.

    Where the budget counts bytes, the best images are encoded together until no more fit; classes
    then have different numbers.

    Args:
        workshop: of the run.
        phase: whose new classes.
        images: to choose from.
        model: gives features where the selection needs them.
        selection: its name.
        room: for exemplars of each new class.

    Raises:
        UserError: if not even one exemplar of a class fits.
    """
    if not room.budget.counts_bytes:
        return select(workshop, phase, images, model, selection, room.quota)
    guess = room.estimate(images, images.indices_of(phase.new_classes[0]))
    chosen, needed = [], []
    for label in _watched(phase):
        rank = _ranking(workshop, images, label, model, selection)
        count, fit = max(1, guess), 0
        while True:
            rows = rank(count)
            fit = room.number_of(images, rows)
            if fit < len(rows) or len(rows) < count:  # bytes end, or images do
                break
            if count >= room.memory.most_of_class:
                break
            count *= 2
        if not fit:
            needed.append(room.memory.bytes_of(images.subset(rows[:1]).load_all()))
        chosen.append(rows[:fit])
        guess = fit + max(1, fit // 4)
    if needed:  # once all were looked at, so that what is advised is enough for each, to the end
        num_classes = workshop.num_classes
        refuse_too_few_bytes(room.budget, num_classes, room.memory.codec, max(needed), begun=True)
    return np.concatenate(chosen)


def _watched(phase: Phase) -> Iterator[int]:
    """Yields the new classes, and tells how far their choice is."""
    return watched(phase.new_classes, phase.num_new, f"phase {phase.index} choosing for class")


def _ranking(
    workshop: Workshop, images: ImageSet, label: int, model: IncrementalModel, selection: str
) -> Callable[[int], np.ndarray]:
    """Returns a function from a number to so many indices of a class, best first."""
    choose = find(SELECTIONS, selection, "exemplars")
    members = images.indices_of(label)
    features = np.empty((len(members), 0))
    if selection not in SELECTIONS or selection in NEED_FEATURES:
        features = workshop.evaluator(model).features(images.subset(members))

    def rank(count: int) -> np.ndarray:
        generator = numpy_generator(workshop.exemplar_seed, "exemplars", label)
        count = min(count, len(members))  # a small class is kept whole
        return members[choose(features, count, generator)]

    return rank
