"""A finite, indexable set of labelled images: what sources hand out and pipelines read."""

import abc

import numpy as np
import tensorflow as tf

from mnemonics_tf.errors import UserError


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

    def load_all(self) -> np.ndarray:
        """Returns all images, uint8 `[n, h, w, c]`; meant for small sets."""
        if self.batched:
            return self.load(tf.range(len(self), dtype=tf.int64)).numpy()
        return np.stack([self.load(tf.constant(i, tf.int64)).numpy() for i in range(len(self))])

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
        self._tensor = None

    def load(self, index: tf.Tensor) -> tf.Tensor:
        if self._tensor is None:
            with tf.init_scope(), tf.device("/CPU:0"):
                self._tensor = tf.constant(self.images)
        return tf.gather(self._tensor, index)

    def subset(self, index: np.ndarray) -> "ArrayImageSet":
        return ArrayImageSet(self.images[index], self.labels[index])

    def relabel(self, labels: np.ndarray) -> "ArrayImageSet":
        return ArrayImageSet(self.images, labels)
