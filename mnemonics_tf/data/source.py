"""What a data source is, and one that holds its images in memory."""

import abc
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.image_set import ArrayImageSet, ImageSet


class DataSource(abc.ABC):
    """A data set with a training and a test part, handed out class by class.

    A source is the only holder of the training images: after `release` the images of a class can
    no longer be reached, which is what keeps class-incremental learning honest.

    Attributes:
        name: the name in the registry.
        class_names: by original class id; the number of classes is its length.
        image_shape: `(height, width, channels)`.
        channel_mean: mean of x/255, one per channel.
        channel_std: standard deviation of x/255, one per channel.
        augmentation: the training augmentation that suits the images: "none", "shift",
            "crop_mirror" or "resized_crop_mirror".
        fit_image: brings a decoded image, uint8 `[any, any, c]`, to `image_shape` as evaluation
            does; None where all images have that shape.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    channel_mean: tuple[float, ...]
    channel_std: tuple[float, ...]
    augmentation: str
    fit_image: Callable[[tf.Tensor], tf.Tensor] | None = None

    @abc.abstractmethod
    def training_counts(self) -> np.ndarray:
        """Returns the number of training images of every class, released or not.

        Returns:
            int `[num_classes]`, by original class id.
        """

    @abc.abstractmethod
    def training_set(self, classes: Sequence[int]) -> ImageSet:
        """Returns the training images of `classes`, sorted by class in the order given.

        Args:
            classes: original class ids; they become the set's labels.

        Raises:
            LookupError: if a class does not exist or was released.
        """

    @abc.abstractmethod
    def test_set(self, classes: Sequence[int]) -> ImageSet:
        """Returns the test images of `classes`, sorted by class in the order given.

        Args:
            classes: original class ids; they become the set's labels.

        Raises:
            LookupError: if a class does not exist.
        """

    @abc.abstractmethod
    def release(self, classes: Sequence[int]) -> None:
        """Forgets the training images of `classes` for good; once more does no harm.

        Args:
            classes: original class ids.

        Raises:
            LookupError: if a class does not exist.
        """

    def _check_known(self, classes: Sequence[int]) -> None:
        unknown = [c for c in classes if not 0 <= c < len(self.class_names)]
        if unknown:
            raise LookupError(
                f"classes {unknown} do not exist; {self.name} has 0..{len(self.class_names) - 1}"
            )


class InMemorySource(DataSource):
    """A source whose images all lie decoded in memory.

    Every class owns its array, so that releasing a class frees its memory.

    Args:
        training: original class id -> uint8 `[n, h, w, c]`; the source takes the mapping's arrays.
        test: the same for the test part.
        class_names: by original class id.
    """

    def __init__(
        self,
        training: Mapping[int, np.ndarray],
        test: Mapping[int, np.ndarray],
        class_names: Sequence[str],
    ):
        self.class_names = tuple(class_names)
        self.image_shape = tuple(training[0].shape[1:])
        self._training = dict(training)
        self._test = dict(test)
        self._training_counts = np.array([len(training[c]) for c in range(len(class_names))])

    def training_counts(self) -> np.ndarray:
        return self._training_counts.copy()

    def training_set(self, classes: Sequence[int]) -> ArrayImageSet:
        self._check_known(classes)
        released = [c for c in classes if c not in self._training]
        if released:
            raise LookupError(f"the training images of classes {released} were released")
        return self._gather(self._training, classes)

    def test_set(self, classes: Sequence[int]) -> ArrayImageSet:
        self._check_known(classes)
        return self._gather(self._test, classes)

    def release(self, classes: Sequence[int]) -> None:
        self._check_known(classes)
        for c in classes:
            self._training.pop(c, None)

    def _gather(self, images: Mapping[int, np.ndarray], classes: Sequence[int]) -> ArrayImageSet:
        if not len(classes):
            return ArrayImageSet(np.empty((0, *self.image_shape), np.uint8), np.empty(0, np.int32))
        # A copy even for a single class: a set that is still alive must not keep a released array.
        gathered = np.concatenate([images[c] for c in classes])
        return ArrayImageSet(gathered, np.repeat(classes, [len(images[c]) for c in classes]))


def split_by_class(images: np.ndarray, labels: np.ndarray) -> dict[int, np.ndarray]:
    """Returns every class's images as an array of its own, in the order they came.

    Args:
        images: uint8 `[n, h, w, c]`.
        labels: int `[n]`, original class ids.
    """
    return {int(c): np.ascontiguousarray(images[labels == c]) for c in np.unique(labels)}
