"""The class-incremental protocol: which class comes in which phase, and under which label."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from mnemonics_tf.data.source import ids_in_words
from mnemonics_tf.errors import UserError, counted


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of a run.

    Attributes:
        index: i in 0..N.
        new_classes: labels (positions in the class order) that this phase teaches, ascending.
        seen_classes: labels taught up to and including this phase, ascending: 0..K_i - 1.
    """

    index: int
    new_classes: range
    seen_classes: range

    @property
    def num_old(self) -> int:
        """How many classes earlier phases taught."""
        return self.new_classes.start

    @property
    def num_new(self) -> int:
        """How many classes this phase teaches."""
        return len(self.new_classes)

    @property
    def num_seen(self) -> int:
        """How many classes are known at the end of this phase."""
        return len(self.seen_classes)


def class_order(num_classes: int, seed: int) -> tuple[int, ...]:
    """Returns NumPy's `RandomState(seed).shuffle` of the original class ids.

    With 100 classes and seed 1993 the order begins 68, 56, 78, 8, 23: the order of LUCIR and of the
    paper's experiments on CIFAR-100. (iCaRL's published list, also known as 'seed 1993', is
    another.)
    """
    order = np.arange(num_classes)
    np.random.RandomState(seed).shuffle(order)
    return tuple(int(original) for original in order)


class ClassIncrementalProtocol:
    """Class order and the division of classes into N + 1 phases.

    Phase 0 teaches `base_classes` classes, the other `num_phases` phases share the rest evenly
    (paper, Section 5.1, benchmark protocol).

    Args:
        order: original class ids in the order in which they are taught.
        base_classes: number of classes in phase 0.
        num_phases: N, the number of incremental phases; 0 means that phase 0 teaches everything.
        sizes: number of classes of every phase, where they are not even; they must agree with the
            other arguments.
        original_ids: of all classes there are; 0..K-1 where they are not given.

    Raises:
        UserError: if the order does not name every class once or the classes can't be shared
            evenly.
    """

    def __init__(
        self,
        order: Sequence[int],
        base_classes: int,
        num_phases: int,
        sizes: Sequence[int] | None = None,
        original_ids: Sequence[int] | None = None,
    ):
        self.order = tuple(int(original) for original in order)
        self._by_id = np.argsort(self.order)
        self.base_classes = base_classes
        self.num_phases = num_phases
        self._sizes = tuple(sizes) if sizes else None
        self._check(original_ids or range(len(self.order)))

    @classmethod
    def from_phases(
        cls, phases: Sequence[Sequence[int]], original_ids: Sequence[int] | None = None
    ) -> "ClassIncrementalProtocol":
        """Returns the protocol that teaches these original class ids phase by phase.

        Args:
            phases: the ids of every phase.
            original_ids: of all classes there are; 0..K-1 where they are not given.
        """
        order = [original for phase in phases for original in phase]
        sizes = [len(phase) for phase in phases]
        return cls(order, sizes[0], len(phases) - 1, sizes, original_ids)

    def _check(self, original_ids: Sequence[int]) -> None:
        total = len(self.order)
        if sorted(self.order) != sorted(original_ids):
            raise UserError(
                f"the class order {ids_in_words(self.order)} is no permutation of "
                f"{ids_in_words(sorted(original_ids))}: name every original class id exactly once"
            )
        if not 1 <= self.base_classes <= total:
            raise UserError(
                f"--base_classes={self.base_classes}, but the data has {total} classes: "
                f"pass a number from 1 to {total}"
            )
        if self._sizes:
            return
        rest = total - self.base_classes
        valid = [n for n in range(1, rest + 1) if rest % n == 0] if rest else [0]
        if self.num_phases not in valid:
            raise UserError(
                f"--num_phases={self.num_phases} does not divide the rest of "
                f"{counted(rest, 'class')} after {counted(self.base_classes, 'base class')} of "
                f"{total}; valid values: {', '.join(map(str, valid))}"
            )

    @property
    def num_classes(self) -> int:
        """How many classes there are in all."""
        return len(self.order)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The N + 1 phases in order."""
        step = (self.num_classes - self.base_classes) // self.num_phases if self.num_phases else 0
        sizes = self._sizes or [self.base_classes, *[step] * self.num_phases]
        ends = np.cumsum(sizes).tolist()
        starts = [0, *ends[:-1]]
        return tuple(
            Phase(i, range(start, end), range(end))
            for i, (start, end) in enumerate(zip(starts, ends, strict=True))
        )

    def original_ids(self, labels: Sequence[int]) -> list[int]:
        """Returns the original class ids of `labels`."""
        return [self.order[label] for label in labels]

    def labels_of(self, original_ids: np.ndarray) -> np.ndarray:
        """Returns the labels (int32) of an array of original class ids."""
        places = np.searchsorted(self.order, original_ids, sorter=self._by_id)
        return self._by_id[places].astype(np.int32)

    @property
    def order_hash(self) -> str:
        """Returns a short hash of the class order, and of explicit phases, for fingerprints."""
        parts = [self.order, self._sizes] if self._sizes else [self.order]
        text = "|".join(",".join(map(str, part)) for part in parts)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
