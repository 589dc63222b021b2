"""tf.data pipelines: index, load, augment, normalise, batch."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.augmentation import Augmentation, ResizedCropMirror
from mnemonics_tf.data.image_set import ArrayImageSet, ImageSet, MixedImageSet
from mnemonics_tf.randomness import stateless_seed


@dataclasses.dataclass(frozen=True)
class Normalization:
    """Maps pixels in [0, 255] to the range that the networks see: (x / 255 - mean) / std.

    Attributes:
        mean: of x / 255, one per channel.
        std: of x / 255, one per channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalize(self, images: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
        """Returns `(images / 255 - mean) / std` for images `[..., w, c]` in [0, 255]."""
        images = tf.cast(images, dtype)
        width = images.shape[-2]
        # Whole rows at once: along three channels TensorFlow takes five times as long.
        mean, std = (tf.constant(np.tile(c, width), dtype) for c in (self.mean, self.std))
        rows = tf.reshape(images, [-1, width * len(self.mean)])
        normalized = tf.reshape((rows / 255 - mean) / std, tf.shape(images))
        return tf.ensure_shape(normalized, images.shape)

    def denormalize(self, images: tf.Tensor) -> tf.Tensor:
        """Returns pixels in [0, 255], neither rounded nor clipped."""
        mean, std = tf.constant(self.mean, images.dtype), tf.constant(self.std, images.dtype)
        return (images * std + mean) * 255

    def to_uint8(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the nearest valid pixels of normalised images; clips before it casts."""
        return tf.cast(tf.clip_by_value(tf.round(self.denormalize(images)), 0, 255), tf.uint8)

    @property
    def black(self) -> np.ndarray:
        """The normalised value of a black pixel, float32 `[c]`."""
        return (-np.array(self.mean) / np.array(self.std)).astype(np.float32)

    @property
    def white(self) -> np.ndarray:
        """The normalised value of a white pixel, float32 `[c]`."""
        return ((1 - np.array(self.mean)) / np.array(self.std)).astype(np.float32)


def concatenate(image_sets: Sequence[ImageSet]) -> ImageSet:
    """Returns one set with the images of several, in order."""
    image_sets = [image_set for image_set in image_sets if len(image_set)]
    if len(image_sets) == 1:
        return image_sets[0]
    if not all(isinstance(image_set, ArrayImageSet) for image_set in image_sets):
        return MixedImageSet.of(image_sets)
    return ArrayImageSet(
        np.concatenate([image_set.images for image_set in image_sets]),
        np.concatenate([image_set.labels for image_set in image_sets]),
    )


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Builds batches of normalised images.

    Every batch is a dict of `image` float32 `[b, h, w, c]`, `label` int32 `[b]` and `weight`
    float32 `[b]`, the last being 1 / b: summed over all replicas, weighted losses are the batch's
    mean however unevenly a short last batch is split.

    Attributes:
        normalization: of the data source.
        augmentation: for training batches.
        seed: of the run; shuffling and augmentation derive from it and from a key.
    """

    normalization: Normalization
    augmentation: Augmentation | ResizedCropMirror
    seed: int

    def training_batches(
        self, images: ImageSet, batch_size: int, *key: str | int
    ) -> tf.data.Dataset:
        """Returns one epoch over `images`, shuffled and augmented as `(seed, key)` decides.

        Args:
            images: what to train on.
            batch_size: over all replicas; the last batch may be smaller.
            *key: names the epoch, e.g. `("train", phase, epoch)`.
        """
        order = np.arange(len(images))
        shuffle_seed = stateless_seed(self.seed, "shuffle", *key)
        augment_seed = stateless_seed(self.seed, "augment", *key)
        order = tf.random.experimental.stateless_shuffle(order, shuffle_seed)
        if isinstance(self.augmentation, ResizedCropMirror) and not images.batched:
            return self._finish(self._load_cropped(images, order, augment_seed, batch_size))

        def augment(step, batch):
            seed = tf.random.experimental.stateless_fold_in(augment_seed, step)
            return batch | {"image": self.augmentation(batch["image"], seed)}

        batches = self._load(images, order, batch_size).enumerate()
        batches = batches.map(augment, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return self._finish(batches)

    def evaluation_batches(self, images: ImageSet, batch_size: int) -> tf.data.Dataset:
        """Returns the images in their order, without augmentation."""
        return self._finish(self._load(images, tf.range(len(images)), batch_size))

    def _load_cropped(
        self, images: ImageSet, order: tf.Tensor, augment_seed: tf.Tensor, batch_size: int
    ) -> tf.data.Dataset:
        """Crops image by image: a set of files does it while it decodes."""
        labels = tf.constant(images.labels)

        def load(position, index):
            seed = tf.random.experimental.stateless_fold_in(augment_seed, position)
            image = images.load_cropped(index, seed, self.augmentation)
            return {"image": image, "label": tf.gather(labels, index)}

        indices = tf.data.Dataset.from_tensor_slices(tf.cast(order, tf.int64)).enumerate()
        loaded = indices.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return loaded.batch(batch_size)

    def _load(self, images: ImageSet, order: tf.Tensor, batch_size: int) -> tf.data.Dataset:
        labels = tf.constant(images.labels)
        order = tf.data.Dataset.from_tensor_slices(tf.cast(order, tf.int64))

        def load(index):
            return {"image": images.load(index), "label": tf.gather(labels, index)}

        if images.batched:
            return order.batch(batch_size).map(
                load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
            )
        return order.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).batch(
            batch_size
        )

    def _finish(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        def finish(batch):
            count = tf.shape(batch["label"])[0]
            return {
                "image": self.normalization.normalize(batch["image"]),
                "label": batch["label"],
                "weight": tf.fill([count], 1.0 / tf.cast(count, tf.float32)),
            }

        batches = batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return batches.prefetch(tf.data.AUTOTUNE)
