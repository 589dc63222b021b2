"""Training augmentations: batched, repeatable from a seed, and differentiable in the images."""

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random crop after padding with black, and mirroring.

    Attributes:
        padding: pixels added on every side before a crop of the original size is taken.
        mirror: whether half of the images are mirrored left to right.
    """

    padding: int
    mirror: bool

    def __call__(
        self, images: tf.Tensor, seed: tf.Tensor, black: tf.Tensor | float = 0
    ) -> tf.Tensor:
        """Returns augmented images.

        The rows and columns of each image are gathered by index, so the result is exact for integer
        images and differentiable, any number of times, for float ones.

        Args:
            images: `[n, h, w, c]`, of any dtype.
            seed: int32 `[2]`; the same seed gives the same crops and mirrors.
            black: value of the padding, a number or one per channel `[c]`.

        Returns:
            `[n, h, w, c]` of the same dtype.
        """
        if self.padding == 0 and not self.mirror:
            return images
        count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
        pad = self.padding
        offsets = tf.random.stateless_uniform([2, count], seed, 0, 2 * pad + 1, tf.int32)
        rows = offsets[0][:, None] + tf.range(height)
        columns = offsets[1][:, None] + tf.range(width)
        if self.mirror:
            flip_seed = tf.random.experimental.stateless_fold_in(seed, 1)
            flip = tf.random.stateless_uniform([count, 1], flip_seed, 0, 2, tf.int32) == 1
            columns = tf.where(flip, columns[:, ::-1], columns)
        black = tf.cast(black, images.dtype)
        padded = tf.pad(images - black, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        cropped = tf.gather(padded, rows, axis=1, batch_dims=1)
        return tf.gather(cropped, columns, axis=2, batch_dims=1) + black


#: by the name that data sources give
AUGMENTATIONS = {
    "none": Augmentation(padding=0, mirror=False),
    "shift": Augmentation(padding=1, mirror=False),
    "crop_mirror": Augmentation(padding=4, mirror=True),
}


def mirror(images: tf.Tensor) -> tf.Tensor:
    """Returns images `[n, h, w, c]` mirrored left to right (the width axis, never the channels)."""
    return tf.reverse(images, axis=[2])
