"""Images that stand in memory as streams of bytes, each decoded on its way into a batch."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.image_set import ImageSet, for_all_graphs
from mnemonics_tf.errors import UserError


class CodedImageSet(ImageSet):
    """Images as streams, with the heads that they share; pixels exist in batches alone.

    Args:
        streams: one an image.
        heads: what the streams of a group have in common.
        head_of: int `[n]`, which head belongs to each stream.
        labels: int `[n]`.
        image_shape: `(height, width, channels)` of all images.
        decode: maps head and stream, strings, to an image, uint8 `[h, w, c]`; in a graph.

    Raises:
        UserError: if there are not as many streams as labels.
    """

    batched = False

    def __init__(
        self,
        streams: Sequence[bytes],
        heads: Sequence[bytes],
        head_of: np.ndarray,
        labels: np.ndarray,
        image_shape: tuple[int, ...],
        decode: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    ):
        if not len(streams) == len(head_of) == len(labels):
            raise UserError(
                f"{len(streams)} streams with {len(head_of)} heads and {len(labels)} labels; "
                "expected as many of each"
            )
        self._streams = streams
        self._heads = heads
        self._head_of = np.asarray(head_of, np.int64)
        self.labels = np.asarray(labels, np.int32)
        height, width, channels = image_shape
        self.image_shape = (height, width, channels)
        self._decode = decode

    @functools.cached_property
    def _tensors(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        with for_all_graphs():
            strings = (tf.constant(texts, tf.string) for texts in (self._streams, self._heads))
            return *strings, tf.constant(self._head_of)

    def load(self, index: tf.Tensor) -> tf.Tensor:
        streams, heads, head_of = self._tensors
        head = tf.gather(heads, tf.gather(head_of, index))
        return tf.ensure_shape(self._decode(head, tf.gather(streams, index)), self.image_shape)

    def subset(self, index: np.ndarray) -> "CodedImageSet":
        index = np.asarray(index)
        if index.dtype == bool:
            index = np.flatnonzero(index)
        streams = [self._streams[int(i)] for i in index]
        return self._with(streams, self._head_of[index], self.labels[index])

    def relabel(self, labels: np.ndarray) -> "CodedImageSet":
        return self._with(self._streams, self._head_of, labels)

    def _with(
        self, streams: Sequence[bytes], head_of: np.ndarray, labels: np.ndarray
    ) -> "CodedImageSet":
        heads, shape = self._heads, self.image_shape
        return CodedImageSet(streams, heads, head_of, labels, shape, self._decode)
