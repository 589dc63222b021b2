"""How many exemplars a budget will hold, before they are made: of bytes an estimate."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.protocol import ClassIncrementalProtocol, Phase
from mnemonics_tf.data.source import DataSource
from mnemonics_tf.exemplars.budget import Budget, make_budget, refuse_too_few_bytes
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.settings import Settings

#: images of a class that are encoded for an estimate
_SAMPLED = 8

#: an estimate of how many images fit may be too low by this factor
_UNSURE = 1.25

#: classes that are looked at before a run
_SAMPLED_CLASSES = 10

#: advised bytes over estimated ones: other images of a class may take more than those sampled
_MARGIN = 1.1


@dataclasses.dataclass(frozen=True)
class Cost:
    """What exemplars of a class take.

    Attributes:
        first: bytes of the first one, with what a class shares.
        further: bytes of each further one, on average.
        most: that a class can have, for the codec's sake.
    """

    first: float
    further: float
    most: int

    @classmethod
    def of(cls, memory: ExemplarMemory, images: np.ndarray) -> "Cost":
        """Returns what images of a class take in a memory.

        Args:
            memory: that would store them.
            images: uint8 `[n, h, w, c]`, some of a class.
        """
        most = memory.most_of_class
        images = images[:most]
        first, others = memory.bytes_of(images[:1]), len(images) - 1
        # Images without content can share all that they take.
        further = max(1.0, (memory.bytes_of(images) - first) / others) if others else first
        return cls(first, further, most)

    def number_in(self, num_bytes: int) -> int:
        """Returns how many exemplars so many bytes hold."""
        return min(self.most, max(0, 1 + math.floor((num_bytes - self.first) / self.further)))

    def bytes_of(self, number: int) -> int:
        """Returns how many bytes hold so many exemplars."""
        return math.ceil(self.first + (number - 1) * self.further)


@dataclasses.dataclass(frozen=True)
class Room:
    """How many images of a new class fit into a memory.

    Attributes:
        budget: of the run.
        num_seen: how many classes share it.
        memory: that is to store them.
    """

    budget: Budget
    num_seen: int
    memory: ExemplarMemory

    @property
    def quota(self) -> int:
        """How many exemplars a class may have, or how many bytes they may take."""
        return self.budget.quota(self.num_seen)

    def estimate(self, images: ImageSet, members: np.ndarray) -> int:
        """Returns about how many exemplars a class will have: of bytes, what a few images say.

        Args:
            images: of all new classes.
            members: indices of those of the class.
        """
        if not self.budget.counts_bytes:
            return self.quota
        sample = images.subset(members[:_SAMPLED]).load_all()
        return Cost.of(self.memory, sample).number_in(self.quota)

    def number_of(self, images: ImageSet, members: np.ndarray) -> int:
        """Returns how many images of a class, from the first on, fit into its bytes and its code.

        Args:
            images: of all new classes.
            members: indices of some of the class, best first.
        """
        members = members[: self.memory.most_of_class]
        return self.memory.number_within(images.subset(members).load_all(), self.quota)

    def to_leave(self, images: ImageSet, members: np.ndarray, otherwise: int) -> int:
        """Returns how many images of a class the memory has to have to choose from.

        Where it counts bytes, all are encoded together if an estimate says that it comes close to
        it.

        Args:
            images: of all new classes.
            members: indices of all of the class.
            otherwise: how many are left unless these are more.
        """
        expected = self.estimate(images, members)
        if not self.budget.counts_bytes:
            return expected
        if _UNSURE * expected > otherwise:
            expected = self.number_of(images, members)
        # Of a few images one may fit where another does not; a small class has half of its own.
        return max(expected, min(_SAMPLED, max(otherwise, -(-len(members) // 2))))


@dataclasses.dataclass(frozen=True)
class ExpectedQuotas:
    """How many exemplars a class may have, as far as that is known before a run.

    Attributes:
        budget: of the run.
        cost: of exemplars of the class that takes the most; None where the budget counts them.
    """

    budget: Budget
    cost: Cost | None = None

    def of(self, phase: Phase) -> int:
        """Returns how many there may be of a class at the end of a phase; none, of too few bytes.

        Raises:
            UserError: if a number for all classes leaves none for each.
        """
        quota = self.budget.quota(phase.num_seen)
        return quota if self.cost is None else self.cost.number_in(quota)

    def to_have(self, per_class: int, protocol: ClassIncrementalProtocol) -> str:
        """Returns the flag of a budget that has so many wherever exemplars are used.

        Args:
            per_class: how many of each class.
            protocol: what is learned when.
        """
        if self.cost:
            share, first = (
                math.ceil(_MARGIN * self.cost.bytes_of(number)) for number in (per_class, 1)
            )
            return _flag_of_bytes(self.budget, share, first, protocol)
        if self.budget.total:
            return f"--exemplars_total={total_of(protocol, per_class)}"
        return f"--exemplars_per_class={per_class}"


def total_of(protocol: ClassIncrementalProtocol, per_class: int) -> int:
    """Returns the budget in all that leaves as many of each class wherever exemplars are used."""
    return max(per_class * _most_used(protocol), protocol.phases[-1].num_seen)


def _flag_of_bytes(
    budget: Budget, share: int, first: int, protocol: ClassIncrementalProtocol
) -> str:
    """Returns the flag of a budget of this kind that is enough to the end.

    Args:
        budget: in bytes.
        share: bytes that a class needs wherever exemplars are used.
        first: bytes of a class's first exemplar, which stays once all classes share the budget.
        protocol: what is learned when.
    """
    if budget.bytes_total is None:
        return budget.of_classes(share, 1)
    total = max(share * _most_used(protocol), first * protocol.phases[-1].num_seen)
    return budget.of_classes(total, 1)


def _most_used(protocol: ClassIncrementalProtocol) -> int:
    """Returns the number of classes whose exemplars the last phase uses."""
    return max((phase.num_seen for phase in protocol.phases[:-1]), default=0)


def expected_quotas(
    settings: Settings,
    protocol: ClassIncrementalProtocol,
    source: DataSource,
    phases: Sequence[Phase],
) -> ExpectedQuotas:
    """Returns how many exemplars a class may have; of bytes, what some images say.

    Args:
        settings: of the run.
        protocol: what is learned when.
        source: gives training images of the classes, some of which are encoded.
        phases: whose new classes are asked for.

    Raises:
        UserError: if there are several budgets, or no exemplar fits into the bytes of a class.
    """
    wanted, last = settings.exemplar, protocol.phases[-1].num_seen
    budget = make_budget(wanted)
    if not budget.counts_bytes:
        return ExpectedQuotas(budget)
    memory = ExemplarMemory.empty(
        source.image_shape, codec=wanted.codec, quality=wanted.jpeg_quality
    )
    samples = list(_samples(protocol, source, phases))
    needed = [memory.bytes_of(sample[i : i + 1]) for sample in samples for i in range(len(sample))]
    if budget.share(last) < min(needed):  # others may fit, but as many bytes as the largest do
        refuse_too_few_bytes(budget, last, wanted.codec, max(needed), begun=False)
    # What a further image takes is not to be seen from one, nor does its class have more.
    several = [sample for sample in samples if len(sample) > 1]
    costs = [Cost.of(memory, sample) for sample in several or samples]
    return ExpectedQuotas(budget, max(costs, key=lambda cost: cost.bytes_of(_SAMPLED)))


def larger_budget(
    budget: Budget, memory: ExemplarMemory, per_class: int, protocol: ClassIncrementalProtocol
) -> str:
    """Returns the flag of a budget that has more exemplars than this one left.

    Args:
        budget: in bytes.
        memory: what it left of the classes seen so far.
        per_class: how many there are to be of each class; more than the smallest has.
        protocol: what is learned when.
    """
    counts, taken = np.bincount(memory.labels), memory.bytes_by_class()
    dearest = (taken / counts).max()  # of an exemplar; what its class shares included
    missing = _MARGIN * dearest * (per_class - counts.min())
    share = budget.quota(len(counts)) + math.ceil(missing)
    first = math.ceil(_MARGIN * memory.trimmed(1).bytes_by_class().max())
    return _flag_of_bytes(budget, share, first, protocol)


def _samples(
    protocol: ClassIncrementalProtocol, source: DataSource, phases: Sequence[Phase]
) -> Iterator[np.ndarray]:
    """Yields the first images, uint8 `[n, h, w, c]`, of some classes, evenly over the phases."""
    classes = [label for phase in phases for label in phase.new_classes]
    places = np.linspace(0, len(classes) - 1, min(_SAMPLED_CLASSES, len(classes))).astype(int)
    for place in places:
        images = source.training_set(protocol.original_ids([classes[place]]))
        yield images.subset(np.arange(min(_SAMPLED, len(images)))).load_all()
