"""Several data sources as one: the classes that a run began with, and those that came later."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.image_set import ArrayImageSet, ImageSet
from mnemonics_tf.data.pipeline import concatenate
from mnemonics_tf.data.preprocessing import Preprocessing
from mnemonics_tf.data.source import DataSource


@dataclasses.dataclass(frozen=True)
class Part:
    """Classes that come from one source.

    Attributes:
        original_ids: by which the joined source knows the classes.
        class_names: of these.
        training_counts: of these, how many training images there are.
        source: where their images are; None if they were not found.
    """

    original_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    training_counts: tuple[int, ...]
    source: DataSource | None


class JoinedSource(DataSource):
    """A source whose classes come from others, which know them by the same names.

    Test images that were not found are left out of `test_set`; training images can't be asked for.

    Args:
        name: of the source.
        parts: without a class in common.
        preprocessing: of the images.
        fit_image: as in `DataSource`.
    """

    def __init__(
        self,
        name: str,
        parts: Sequence[Part],
        preprocessing: Preprocessing,
        fit_image: Callable[[tf.Tensor], tf.Tensor] | None,
    ):
        self.name = name
        self._part_of = {c: part for part in parts for c in part.original_ids}
        self._original_ids = tuple(sorted(self._part_of))
        facts: dict[int, tuple[str, int]] = {}
        for part in parts:
            named = zip(part.class_names, part.training_counts, strict=True)
            facts |= dict(zip(part.original_ids, named, strict=True))
        self.class_names = tuple(facts[c][0] for c in self._original_ids)
        self._counts = np.array([facts[c][1] for c in self._original_ids])
        self.image_shape = preprocessing.image_shape
        self.channel_mean, self.channel_std = preprocessing.channel_mean, preprocessing.channel_std
        self.augmentation, self.fitting = preprocessing.augmentation, preprocessing.fitting
        self.fit_image = fit_image

    def training_counts(self) -> np.ndarray:
        return self._counts.copy()

    def test_counts(self) -> np.ndarray:
        return np.array([len(self.test_set([c])) for c in self.original_ids])

    def training_set(self, classes: Sequence[int]) -> ImageSet:
        self._check_known(classes)
        missing = [c for c in classes if not self._part_of[c].source]
        if missing:
            raise LookupError(f"the training images of classes {missing} were not found")
        return self._gather(classes, lambda source, own: source.training_set(own))

    def test_set(self, classes: Sequence[int]) -> ImageSet:
        self._check_known(classes)
        return self._gather(classes, lambda source, own: source.test_set(own))

    def release(self, classes: Sequence[int]) -> None:
        self._check_known(classes)
        for source, own, _ in self._by_source(classes):
            source.release(own)

    def _gather(
        self, classes: Sequence[int], load: Callable[[DataSource, list[int]], ImageSet]
    ) -> ImageSet:
        sets = []
        for source, own, numbers in self._by_source(classes):
            images = load(source, own)
            places = np.argsort(own)
            rows = places[np.searchsorted(own, images.labels, sorter=places)]
            sets.append(images.relabel(np.array(numbers)[rows]))
        nothing = ArrayImageSet(np.empty((0, *self.image_shape), np.uint8), np.empty(0, np.int32))
        return concatenate(sets) if any(len(images) for images in sets) else nothing

    def _by_source(
        self, classes: Sequence[int]
    ) -> Iterator[tuple[DataSource, list[int], list[int]]]:
        """Yields, for each stretch of classes of a source that was found, the source and their ids.

        The ids first as that source has them, then as this one does.
        """
        for _, stretch in itertools.groupby(classes, lambda c: id(self._part_of[c])):
            numbers = list(stretch)
            part = self._part_of[numbers[0]]
            if part.source:
                names = dict(zip(part.original_ids, part.class_names, strict=True))
                ids = dict(zip(part.source.class_names, part.source.original_ids, strict=True))
                yield part.source, [ids[names[c]] for c in numbers], numbers
