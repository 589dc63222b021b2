"""Pictures of exemplars by class: what they began as, what they are now, how far they moved."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mnemonics_tf.arrays import grey_levels_moved
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.reporting.drift import memories_of, since_birth
from mnemonics_tf.reporting.groups import Group
from mnemonics_tf.reporting.runs import Run, seeds_in_words

#: classes, and exemplars of each, that a page shows of a group
_CLASSES = 40
_PER_CLASS = 4
#: the largest power of two that differences are multiplied with
_MOST_AMPLIFIED = 32
_MIDDLE_GREY = 128


@dataclasses.dataclass(frozen=True)
class Card:
    """Some exemplars of one class.

    Attributes:
        label: of the class.
        name: of the class.
        start: uint8 `[k, h, w, c]`; as `now` where they never moved.
        now: the same exemplars after the last phase.
        moved: root mean square over their pixels, in grey levels, `[k]`.
        farthest: of a single value of a pixel, in grey levels, `[k]`.
    """

    label: int
    name: str
    start: np.ndarray
    now: np.ndarray
    moved: np.ndarray
    farthest: np.ndarray


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Exemplars of one run.

    Attributes:
        seed: of the run, in words.
        cards: by class, in the order in which the run met them.
        num_classes: of the memory; more than there are cards where these would be too many.
        num_exemplars: of the largest class, likewise.
        starts_known: whether `start` is the image that learning began with; otherwise what was
            stored first.
        amplification: factor on differences in `difference`.
    """

    seed: str
    cards: tuple[Card, ...]
    num_classes: int
    num_exemplars: int
    starts_known: bool
    amplification: int

    @property
    def any_moved(self) -> bool:
        """Whether any exemplar shown differs from its start."""
        return any(card.moved.any() for card in self.cards)


def gallery(group: Group) -> Gallery | None:
    """Returns exemplars after the last phase, of the group's first run that has any; None if none.

    Raises:
        UserError: if a file of the run is damaged, or does not fit the others.
    """
    found = next(((run, kept) for run in group.runs if (kept := memories_of(run))), None)
    if found is None:
        return None
    run, memories = found
    held, last = memories[-1].labels, len(run.phases) - 1
    starts = _starts(run, memories[-1].image_shape)
    labels = _shown(run, held, starts)
    labels = labels[np.linspace(0, len(labels) - 1, min(_CLASSES, len(labels))).astype(int)]
    cards = []
    for label in labels:
        birth, now = since_birth(memories, group.num_classes, last, label, _PER_CLASS)
        start = starts.get(int(label), birth)[: len(now)]
        now = now[: len(start)]
        apart = np.abs(now.astype(np.int16) - start)
        farthest = apart.max(axis=(1, 2, 3))
        cards.append(
            Card(
                int(label),
                class_name(run, label),
                start,
                now,
                grey_levels_moved(start, now),
                farthest,
            )
        )
    largest = int(np.bincount(held).max())
    known = bool(starts) or "mnemonics" not in run.kinds_of_exemplars()
    return Gallery(
        seeds_in_words(run.seeds),
        tuple(cards),
        run.phases[-1]["num_seen"],
        largest,
        known,
        _amplification(cards),
    )


def class_name(run: Run, label: int) -> str:
    """Returns a class's name, or what stands for it where results.json tells none."""
    names, order = run.contents.get("class_names"), run.contents.get("class_order")
    if names:
        return names[label]
    return f"class {order[label] if order else label}"


def difference(card: Card, amplification: int) -> np.ndarray:
    """Returns `amplification` times now - start around middle grey, uint8 `[k, h, w, c]`."""
    apart = card.now.astype(np.int32) - card.start
    return np.clip(_MIDDLE_GREY + amplification * apart, 0, 255).astype(np.uint8)


def _amplification(cards: Sequence[Card]) -> int:
    """Returns the power of two that makes differences visible and leaves nearly all unclipped."""
    apart = np.concatenate([np.abs(c.now.astype(np.int16) - c.start).ravel() for c in cards])
    large = np.percentile(apart, 99)
    if not large:
        large = apart.max()
    factor = 1
    while large and 2 * factor * large < _MIDDLE_GREY and factor < _MOST_AMPLIFIED:
        factor *= 2
    return factor


def _shown(run: Run, held: np.ndarray, starts: Mapping[int, np.ndarray]) -> np.ndarray:
    """Returns the labels that can be shown: of what learned those whose starts are kept, if any.

    Args:
        run: whose.
        held: labels in the memory.
        starts: by label, what learned exemplars began as.
    """
    shown, first = [], 0
    for record in run.phases:
        mine = [label for label in range(first, record["num_seen"]) if label in held]
        learned = run.settings_of(record)["exemplars"] == "mnemonics"
        shown += [label for label in mine if label in starts or not (starts and learned)]
        first = record["num_seen"]
    return np.array(shown)


def _starts(run: Run, image_shape: Sequence[int]) -> dict[int, np.ndarray]:
    """Returns by label what learned exemplars began as; of an older run there is nothing."""
    starts: dict[int, np.ndarray] = {}
    if run.directory is None:  # bare results have no exemplars
        return starts
    first = 0
    for record in run.phases:
        path, end = run.directory.exemplar_starts(record["phase"]), record["num_seen"]
        if path.exists():
            memory = ExemplarMemory.load(path)
            labels = np.unique(memory.labels)
            fits = len(labels) and first <= labels[0] and labels[-1] < end
            if not fits or tuple(memory.image_shape) != tuple(image_shape):
                raise UserError(
                    f"{path} holds images {list(memory.image_shape)} of the labels "
                    f"{labels.tolist()[:5]}; expected {list(image_shape)} of labels from {first} "
                    f"to {end - 1}: put the right file back, or remove it"
                )
            images = memory.images
            starts |= {int(label): images[memory.labels == label] for label in labels}
        first = end
    return starts
