"""Where a training step's batches come from: images on the device, or a stream of tf.data."""

import abc
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mnemonics_tf import devices
from mnemonics_tf.data.augmentation import Augmentation
from mnemonics_tf.data.draw import Draw
from mnemonics_tf.data.image_set import ArrayImageSet, ImageSet
from mnemonics_tf.data.pipeline import Pipeline, filled

#: images of at most this share of the device's memory are laid there
_RESIDENT_SHARE = 0.25


class Feed(abc.ABC):
    """The batches of a stage's epochs, for a graph that outlives the stage.

    Attributes:
        kind: feeds of one kind share a graph.
        signature: of `epoch`'s result, for `tf.function`; None takes it from the arguments.
        batch: maps what `epoch` returned, and the number of a batch within its epoch, to the batch,
            in a graph. It holds no data, and is the same for all feeds of one kind. A batch has
            `image`, augmented and normalised, `label` and `weight`.
    """

    kind: str
    signature: Any = None
    batch: Callable[[Any, tf.Tensor], dict[str, tf.Tensor]]

    @abc.abstractmethod
    def epoch(self, epoch: int) -> Any:
        """Returns what `batch` needs for an epoch; epochs are asked for in order."""


class ResidentFeed(Feed):
    """Images that lie in the device's memory; each step gathers its batch there.

    Args:
        pipeline: decides order and augmentation.
        images: the training set.
        batch_size: the last batch may be smaller.
        key: names the stage.
        fill: fills the last batch up, with images of weight 0.
        draw: which images each epoch sees; None: all.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        images: ArrayImageSet,
        batch_size: int,
        key: tuple[str | int, ...],
        fill: bool,
        draw: Draw | None = None,
    ):
        self._pipeline = pipeline
        self._draw = draw
        self._key = key
        self._count = len(images)
        pixels = images.images.astype(_laid_as(images), copy=False)
        self._images = tf.constant(pixels)
        crops_by_index = isinstance(pipeline.augmentation, Augmentation)
        compact = pixels.dtype != images.images.dtype
        dtype = np.float32 if compact and crops_by_index else images.images.dtype
        self.batch = functools.partial(_gather, pipeline, batch_size, fill, tf.as_dtype(dtype))
        self._labels = tf.constant(images.labels)
        self.kind = f"resident {pixels.dtype}"
        self.signature = (
            tf.TensorSpec([None, *images.image_shape], pixels.dtype),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([2], tf.int32),
        )

    def epoch(self, epoch):
        key = (*self._key, epoch)
        order = self._pipeline.order(self._count, *key, draw=self._draw)
        return self._images, self._labels, order, self._pipeline.augment_seed(*key)


def _laid_as(images: ArrayImageSet) -> np.dtype:
    """Returns what pixels become where they are resident.

    A GPU gathers no bytes; half precision holds 0 to 255 exactly.
    """
    compact = images.images.dtype == np.uint8 and tf.config.list_logical_devices("GPU")
    return np.dtype(np.float16) if compact else images.images.dtype


def _bytes_of(images: ArrayImageSet) -> int:
    """Returns what images take where they are resident."""
    return images.images.size * _laid_as(images).itemsize


def _gather(
    pipeline: Pipeline, batch_size: int, fill: bool, dtype: tf.DType, arguments, step
) -> dict[str, tf.Tensor]:
    images, labels, order, seed = arguments
    rows = order[step * batch_size : (step + 1) * batch_size]
    count = tf.shape(rows)[0]
    weight = tf.fill([count], 1.0 / tf.cast(count, tf.float32))
    # Outside of what XLA compiles: its random numbers are others.
    image = pipeline.augmented(tf.cast(tf.gather(images, rows), dtype), seed, step)
    batch = {"image": image, "label": tf.gather(labels, rows), "weight": weight}
    return {name: filled(tensor, batch_size) for name, tensor in batch.items()} if fill else batch


class StreamedFeed(Feed):
    """Images that a tf.data pipeline loads, augments and normalises while the device computes.

    Args:
        pipeline: makes the batches.
        images: the training set.
        batch_size: over all replicas; the last batch may be smaller.
        key: names the stage.
        epochs: which ones will be asked for.
        first_step: where the first of them begins.
        strategy: whose replicas share the batches.
        fill: fills the last batch up, with images of weight 0.
        draw: which images each epoch sees; None: all.
    """

    kind = "streamed"

    def __init__(
        self,
        pipeline: Pipeline,
        images: ImageSet,
        batch_size: int,
        key: tuple[str | int, ...],
        epochs: range,
        first_step: int,
        strategy: tf.distribute.Strategy,
        fill: bool,
        draw: Draw | None = None,
    ):
        keys = [(*key, epoch) for epoch in epochs]
        batches = pipeline.training_stream(images, batch_size, keys, first_step, fill, draw)
        self._iterator = devices.iterate(strategy, batches)
        self.batch = _next

    def epoch(self, epoch):
        del epoch
        return self._iterator


def _next(arguments, step) -> dict[str, tf.Tensor]:
    del step
    return next(arguments)


def open_feed(
    pipeline: Pipeline,
    images: ImageSet,
    batch_size: int,
    key: tuple[str | int, ...],
    epochs: range,
    first_step: int,
    strategy: tf.distribute.Strategy,
    compiled: bool,
    draw: Draw | None = None,
) -> Feed:
    """Returns the feed that suits images and device; both kinds give equal batches.

    Args:
        pipeline: as for the feeds.
        images: the training set.
        batch_size: over all replicas.
        key: names the stage.
        epochs: which ones will be asked for, in order.
        first_step: where the first of them begins.
        strategy: the distribution strategy.
        compiled: whether XLA compiles the step: all batches then have one size.
        draw: which images each epoch sees; None: all.
    """
    on_gpu = bool(tf.config.list_logical_devices("GPU"))
    if (
        isinstance(images, ArrayImageSet)
        and strategy.num_replicas_in_sync == 1
        and (compiled or not on_gpu)  # plain kernels of a GPU augment no bytes
        and _bytes_of(images) <= _RESIDENT_SHARE * (devices.available_bytes() or 2**32)
    ):
        return ResidentFeed(pipeline, images, batch_size, key, compiled, draw)
    return StreamedFeed(
        pipeline, images, batch_size, key, epochs, first_step, strategy, compiled, draw
    )
