"""tf.data pipelines: index, load, augment, normalise, batch."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.augmentation import Augmentation, ResizedCropMirror
from mnemonics_tf.data.draw import Draw
from mnemonics_tf.data.image_set import ArrayImageSet, ImageSet, MixedImageSet
from mnemonics_tf.randomness import stateless_seed

#: images that are changed at once on the host
_AT_ONCE = 256


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
        # Whole rows at once: along three channels TensorFlow takes five times as long. A product
        # and a difference: quotients are rounded otherwise in some graphs.
        std, mean = np.tile(self.std, width), np.tile(self.mean, width)
        rows = tf.reshape(images, [-1, width * len(self.mean)])
        rows = rows * tf.constant(1 / (255 * std), dtype) - tf.constant(mean / std, dtype)
        normalized = tf.reshape(rows, tf.shape(images))
        return tf.ensure_shape(normalized, images.shape)

    def denormalize(self, images: tf.Tensor) -> tf.Tensor:
        """Returns pixels in [0, 255], neither rounded nor clipped."""
        mean, std = tf.constant(self.mean, images.dtype), tf.constant(self.std, images.dtype)
        return (images * std + mean) * 255

    def to_uint8(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the nearest valid pixels of normalised images; clips before it casts."""
        return tf.cast(tf.clip_by_value(tf.round(self.denormalize(images)), 0, 255), tf.uint8)

    def normalize_on_host(self, images: np.ndarray) -> np.ndarray:
        """Returns what `normalize` does, bit for bit, float32; of more images than a GPU holds."""
        return _on_host(self.normalize, images, np.arange(len(images)), np.float32)

    def to_uint8_on_host(self, images: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Returns what `to_uint8` does, bit for bit; of more images than a GPU holds.

        Args:
            images: normalised, `[n, h, w, c]`.
            rows: which of them; None: all.
        """
        rows = np.arange(len(images)) if rows is None else rows
        return _on_host(self.to_uint8, images, rows, np.uint8)

    @property
    def black(self) -> np.ndarray:
        """The normalised value of a black pixel, float32 `[c]`."""
        return (-np.array(self.mean) / np.array(self.std)).astype(np.float32)

    @property
    def white(self) -> np.ndarray:
        """The normalised value of a white pixel, float32 `[c]`."""
        return ((1 - np.array(self.mean)) / np.array(self.std)).astype(np.float32)


def _on_host(
    change: Callable[[np.ndarray], tf.Tensor], images: np.ndarray, rows: np.ndarray, dtype: type
) -> np.ndarray:
    """Returns what `change` makes of some images, a few at a time: it takes room for several."""
    changed: np.ndarray = np.empty((len(rows), *images.shape[1:]), dtype)
    with tf.device("/CPU:0"):
        for start in range(0, len(rows), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            changed[part] = change(tf.constant(images[rows[part]])).numpy()
    return changed


def concatenate(image_sets: Sequence[ImageSet]) -> ImageSet:
    """Returns one set with the images of several, in order."""
    image_sets = [image_set for image_set in image_sets if len(image_set)]
    if len(image_sets) == 1:
        return image_sets[0]
    arrays = [image_set for image_set in image_sets if isinstance(image_set, ArrayImageSet)]
    if len(arrays) < len(image_sets):
        return MixedImageSet.of(image_sets)
    return ArrayImageSet(
        np.concatenate([image_set.images for image_set in arrays]),
        np.concatenate([image_set.labels for image_set in arrays]),
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

    def order(self, count: int, *key: str | int, draw: Draw | None = None) -> tf.Tensor:
        """Returns the order, int64, in which the epoch that `key` names sees its images.

        Args:
            count: of images.
            *key: names the epoch, e.g. `("train", phase, epoch)`.
            draw: which of them the epoch sees; None: all.
        """
        rows = tf.range(count, dtype=tf.int64) if draw is None else draw.rows(self._draw_seed(*key))
        seed = stateless_seed(self.seed, "shuffle", *key)
        return tf.random.experimental.stateless_shuffle(rows, seed)

    def _draw_seed(self, *key: str | int) -> tf.Tensor:
        return stateless_seed(self.seed, "draw", *key)

    def augment_seed(self, *key: str | int) -> tf.Tensor:
        """Returns the seed, int32 `[2]`, of the augmentation in the epoch that `key` names."""
        return stateless_seed(self.seed, "augment", *key)

    def augmented(self, images: tf.Tensor, epoch_seed: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Returns a batch's images augmented, float32 and normalised; in a graph.

        Args:
            images: `[b, h, w, c]` in [0, 255].
            epoch_seed: what `augment_seed` returned.
            step: number of the batch within its epoch.
        """
        seed = tf.random.experimental.stateless_fold_in(epoch_seed, step)
        return self.normalization.normalize(self.augmentation(images, seed))

    def training_batches(
        self, images: ImageSet, batch_size: int, *key: str | int
    ) -> tf.data.Dataset:
        """Returns one epoch over `images`, shuffled and augmented as `(seed, key)` decides.

        Args:
            images: what to train on.
            batch_size: over all replicas; the last batch may be smaller.
            *key: names the epoch, e.g. `("train", phase, epoch)`.
        """
        return self.training_stream(images, batch_size, [key])

    def training_stream(
        self,
        images: ImageSet,
        batch_size: int,
        keys: Sequence[tuple[str | int, ...]],
        first_step: int = 0,
        fill: bool = False,
        draw: Draw | None = None,
    ) -> tf.data.Dataset:
        """Returns the batches of several epochs, one epoch after the other, in one data set.

        Args:
            images: what to train on.
            batch_size: over all replicas; an epoch's last batch may be smaller.
            keys: names the epochs.
            first_step: batches of the first epoch that are left out.
            fill: fills the last batch up with black images of weight 0.
            draw: which images each epoch sees; None: all.
        """
        shuffle_seeds = tf.stack([stateless_seed(self.seed, "shuffle", *key) for key in keys])
        augment_seeds = tf.stack([self.augment_seed(*key) for key in keys])
        draw_seeds = tf.stack([self._draw_seed(*key) for key in keys])
        all_rows = tf.range(len(images), dtype=tf.int64)
        crops = isinstance(self.augmentation, ResizedCropMirror) and not images.batched

        def epoch(index):
            rows = all_rows if draw is None else draw.rows(draw_seeds[index])
            order = tf.random.experimental.stateless_shuffle(rows, shuffle_seeds[index])
            first = tf.where(index == 0, tf.constant(first_step, tf.int64), 0)
            order, seed = order[first * batch_size :], augment_seeds[index]
            if crops:
                return self._load_cropped(images, order, seed, first * batch_size, batch_size)

            def augment(step, batch):
                return batch | {"image": self.augmented(batch["image"], seed, step)}

            batches = self._load(images, order, batch_size).enumerate(first)
            return batches.map(augment, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

        batches = tf.data.Dataset.range(len(keys)).flat_map(epoch)
        normalize = self.normalization.normalize if crops else tf.identity
        return self._finish(batches, normalize, batch_size if fill else None)

    def evaluation_batches(
        self, images: ImageSet, batch_size: int, fill: bool = False
    ) -> tf.data.Dataset:
        """Returns the images in their order, without augmentation.

        Args:
            images: what to load.
            batch_size: the last batch may be smaller.
            fill: fills the last batch up with images of weight 0.
        """
        batches = self._load(images, tf.range(len(images)), batch_size)
        return self._finish(batches, self.normalization.normalize, batch_size if fill else None)

    def _load_cropped(
        self,
        images: ImageSet,
        order: tf.Tensor,
        augment_seed: tf.Tensor,
        first: tf.Tensor,
        batch_size: int,
    ) -> tf.data.Dataset:
        """Crops image by image: a set of files does it while it decodes.

        Args:
            images: what to load from.
            order: of the rows to load.
            augment_seed: of the epoch.
            first: position of the first row within the epoch.
            batch_size: of the batches.
        """
        labels = tf.constant(images.labels)

        def load(position, index):
            seed = tf.random.experimental.stateless_fold_in(augment_seed, position)
            image = images.load_cropped(index, seed, self.augmentation)
            return {"image": image, "label": tf.gather(labels, index)}

        indices = tf.data.Dataset.from_tensor_slices(order).enumerate(first)
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

    def _finish(
        self,
        batches: tf.data.Dataset,
        normalize: Callable[[tf.Tensor], tf.Tensor],
        fill_to: int | None = None,
    ) -> tf.data.Dataset:
        def finish(batch):
            count = tf.shape(batch["label"])[0]
            finished = {
                "image": normalize(batch["image"]),
                "label": batch["label"],
                "weight": tf.fill([count], 1.0 / tf.cast(count, tf.float32)),
            }
            if fill_to is None:
                return finished
            return {name: filled(tensor, fill_to) for name, tensor in finished.items()}

        batches = batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return batches.prefetch(tf.data.AUTOTUNE)


def filled(tensor: tf.Tensor, size: int) -> tf.Tensor:
    """Returns a batch's tensor with zeros appended up to `size` rows."""
    missing = size - tf.shape(tensor)[0]
    padded = tf.pad(tensor, [[0, missing]] + [[0, 0]] * (tensor.shape.rank - 1))
    return tf.ensure_shape(padded, [size, *tensor.shape[1:]])
