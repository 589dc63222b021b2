"""A finite, indexable set of labelled images: what sources hand out and pipelines read."""

import abc
import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.augmentation import ResizedCropMirror
from mnemonics_tf.errors import UserError


@contextlib.contextmanager
def for_all_graphs() -> Iterator[None]:
    """Within it constants are made on the host, for all graphs and not for the one being traced.

    A set makes them when it is first loaded: they take its bytes again, and many are never loaded.
    """
    with tf.init_scope(), tf.device("/CPU:0"):
        yield


class ImageSet(abc.ABC):
    """Labelled images addressed by index, loaded inside a TensorFlow graph.

    Random access by index keeps shuffling exact and repeatable, and lets a phase read only its own
    classes. Labels are original class ids where a source hands a set out, and positions in the
    class order after `relabel`.

    Attributes:
        labels: int32 `[n]`.
        image_shape: `(height, width, channels)` of what `load` returns.
        batched: whether `load` takes a vector of indices (images in memory) or one index (files).
    """

    labels: np.ndarray
    image_shape: tuple[int, int, int]
    batched: bool

    def __len__(self) -> int:
        return len(self.labels)

    @abc.abstractmethod
    def load(self, index: tf.Tensor) -> tf.Tensor:
        """Returns the image (or, when `batched`, the images) at `index`.

        Args:
            index: int64, a vector `[b]` when `batched`, else a scalar.

        Returns:
            Pixels in [0, 255], `[b, h, w, c]` when `batched`, else `[h, w, c]`; uint8, but for
            exemplars that were not rounded yet.
        """

    @abc.abstractmethod
    def subset(self, index: np.ndarray) -> "ImageSet":
        """Returns the images at `index` (int `[m]`), in that order."""

    @abc.abstractmethod
    def relabel(self, labels: np.ndarray) -> "ImageSet":
        """Returns the same images under other labels (int `[n]`)."""

    def load_one(self, index: tf.Tensor) -> tf.Tensor:
        """Returns the image `[h, w, c]` at `index`, a scalar."""
        return self.load(index[None])[0] if self.batched else self.load(index)

    def load_cropped(
        self, index: tf.Tensor, seed: tf.Tensor, augmentation: ResizedCropMirror
    ) -> tf.Tensor:
        """Returns the image at `index`, a scalar, cropped at random as `seed` decides.

        Sets that hold more of an image than `load` returns may crop what they hold.
        """
        return augmentation(self.load_one(index)[None], seed)[0]

    def check_files(self) -> None:  # noqa: B027, images in memory have no files
        """Decodes all images that lie in files, one by one; meant for finding what failed.

        Raises:
            UserError: names the first one that can't be decoded.
        """

    def load_all(self) -> np.ndarray:
        """Returns all images, uint8 `[n, h, w, c]`; meant for small sets.

        Raises:
            UserError: names the first file that can't be decoded.
        """
        if self.batched:
            return self.load(tf.range(len(self), dtype=tf.int64)).numpy()
        with naming_broken_files([self]):
            return self._load_one_by_one()

    def _load_one_by_one(self) -> np.ndarray:
        images = np.empty((len(self), *self.image_shape), np.uint8)
        loaded = tf.data.Dataset.range(len(self)).map(
            self.load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        for i, image in enumerate(loaded.as_numpy_iterator()):
            images[i] = image
        return images

    def indices_of(self, label: int) -> np.ndarray:
        """Returns the indices of the images with `label`, ascending."""
        return np.flatnonzero(self.labels == label)


class ArrayImageSet(ImageSet):
    """Images that lie decoded in memory.

    Args:
        images: uint8 `[n, h, w, c]`, or float32 in [0, 255].
        labels: int `[n]`.

    Raises:
        UserError: if the shapes do not belong together or the images are of another kind.
    """

    batched = True

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        kinds = (np.uint8, np.float32)
        if images.ndim != 4 or images.dtype not in kinds or len(images) != len(labels):
            raise UserError(
                f"images of dtype {images.dtype} and shape {images.shape} with {len(labels)} "
                "labels; expected uint8 or float32 [n, height, width, channels] and n labels"
            )
        self.images = images
        self.labels = np.asarray(labels, np.int32)
        self.image_shape = tuple(images.shape[1:])

    @functools.cached_property
    def _tensor(self) -> tf.Tensor:
        with for_all_graphs():
            return tf.constant(self.images)

    def load(self, index: tf.Tensor) -> tf.Tensor:
        return tf.gather(self._tensor, index)

    def subset(self, index: np.ndarray) -> "ArrayImageSet":
        return ArrayImageSet(self.images[index], self.labels[index])

    def relabel(self, labels: np.ndarray) -> "ArrayImageSet":
        return ArrayImageSet(self.images, labels)


class MappedImageSet(ImageSet):
    """Images in an array that lies on disk and is read as it is needed.

    Args:
        images: uint8 `[n, h, w, c]`, memory-mapped; not copied.
        labels: int `[m]`.
        rows: int `[m]`, where in `images` each one lies; None takes all in order.
    """

    batched = True

    def __init__(self, images: np.memmap, labels: np.ndarray, rows: np.ndarray | None = None):
        self._images = images
        self._rows = np.arange(len(images)) if rows is None else rows
        self.labels = np.asarray(labels, np.int32)
        self.image_shape = tuple(images.shape[1:])

    def load(self, index: tf.Tensor) -> tf.Tensor:
        images = tf.numpy_function(lambda i: self._images[self._rows[i]], [index], tf.uint8)
        return tf.ensure_shape(images, [None, *self.image_shape])

    def subset(self, index: np.ndarray) -> "MappedImageSet":
        return MappedImageSet(self._images, self.labels[index], self._rows[index])

    def relabel(self, labels: np.ndarray) -> "MappedImageSet":
        return MappedImageSet(self._images, labels, self._rows)


class MixedImageSet(ImageSet):
    """Images of several sets of different kinds, such as files beside exemplars.

    Args:
        parts: the sets; images of one shape.
        labels: int `[m]`.
        part: int `[m]`, which of the sets each image lies in.
        row: int `[m]`, and where.
    """

    batched = False

    def __init__(
        self, parts: Sequence[ImageSet], labels: np.ndarray, part: np.ndarray, row: np.ndarray
    ):
        shapes = {part.image_shape for part in parts}
        if len(shapes) > 1:
            raise UserError(f"images of different shapes can't form one set: {sorted(shapes)}")
        self._parts = tuple(parts)
        self.labels = np.asarray(labels, np.int32)
        self._part = np.asarray(part, np.int32)
        self._row = np.asarray(row, np.int64)
        self.image_shape = parts[0].image_shape

    @classmethod
    def of(cls, parts: Sequence[ImageSet]) -> "MixedImageSet":
        """Returns the images of all parts, in order."""
        return cls(
            parts,
            np.concatenate([part.labels for part in parts]),
            np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
            np.concatenate([np.arange(len(part)) for part in parts]),
        )

    def load(self, index: tf.Tensor) -> tf.Tensor:
        return self._choose(index, lambda part, row: part.load_one(row))

    def load_cropped(self, index, seed, augmentation):
        return self._choose(index, lambda part, row: part.load_cropped(row, seed, augmentation))

    def _choose(
        self, index: tf.Tensor, load: Callable[[ImageSet, tf.Tensor], tf.Tensor]
    ) -> tf.Tensor:
        row = tf.gather(self._row, index)
        branches = [lambda part=part: load(part, row) for part in self._parts]
        image = tf.switch_case(tf.gather(self._part, index), branches)
        return tf.ensure_shape(image, self.image_shape)

    def subset(self, index: np.ndarray) -> "MixedImageSet":
        return MixedImageSet(self._parts, self.labels[index], self._part[index], self._row[index])

    def relabel(self, labels: np.ndarray) -> "MixedImageSet":
        return MixedImageSet(self._parts, labels, self._part, self._row)

    def check_files(self) -> None:
        for number, part in enumerate(self._parts):
            part.subset(self._row[self._part == number]).check_files()


#: what TensorFlow raises where no file is to blame; not FailedPreconditionError: so it calls a
#: folder in a file's place
_OTHER_TROUBLE = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.InternalError,
    tf.errors.ResourceExhaustedError,
    tf.errors.UnavailableError,
    tf.errors.UnimplementedError,
)


@contextlib.contextmanager
def naming_broken_files(image_sets: Iterable[ImageSet]) -> Iterator[None]:
    """Where TensorFlow fails within, decodes the files of some sets to name the one to blame.

    A graph that decodes does not know the names of files.

    Args:
        image_sets: what is read within; looked at when it fails.

    Raises:
        UserError: names the first file that can't be decoded; other errors pass.
    """
    try:
        yield
    except _OTHER_TROUBLE:
        raise
    except tf.errors.OpError as error:
        try:
            for image_set in image_sets:
                image_set.check_files()
        except UserError as broken:
            raise broken from error
        raise
