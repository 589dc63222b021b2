"""Training augmentations: batched, repeatable from a seed, and differentiable in the images."""

import dataclasses
import math

import tensorflow as tf

#: parts drawn until one lies within the image
_ATTEMPTS = 10


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


@dataclasses.dataclass(frozen=True)
class ResizedCropMirror:
    """A random part of the image, scaled to a given size; half of the images are mirrored.

    The part's area is uniform between `smallest_area` and 1 of the image's, the logarithm of its
    width by height uniform between those of 3/4 and 4/3. Ten parts are drawn and the first one that
    lies within the image is taken; if none does, the largest square in the middle.

    Source: Szegedy et al., Going Deeper with Convolutions, CVPR 2015, Section 6, with the numbers
    of LUCIR's training on ImageNet.

    Attributes:
        smallest_area: share of the image's area.
        widest: largest ratio of width to height; the smallest is its inverse.
    """

    smallest_area: float = 0.08
    widest: float = 4 / 3

    def __call__(
        self, images: tf.Tensor, seed: tf.Tensor, black: tf.Tensor | float = 0
    ) -> tf.Tensor:
        """Returns augmented images of the same size.

        Scaling is linear in the images, two products of matrices: float images get gradients of
        any order.

        Args:
            images: `[n, h, w, c]`; integers are rounded.
            seed: int32 `[2]`; the same seed gives the same parts and mirrors.
            black: not used; nothing is padded.

        Returns:
            `[n, h, w, c]` of the same dtype.
        """
        del black
        count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
        top, left, part_height, part_width, flip = self.draw(count, height, width, seed)
        dtype = images.dtype if images.dtype.is_floating else tf.float32
        rows = tf.cast(_interpolation(top, part_height, height, height), dtype)
        columns = tf.cast(_interpolation(left, part_width, width, width), dtype)
        columns = tf.where(flip[:, None, None], columns[:, ::-1], columns)
        values = tf.einsum("noi,nijc->nojc", rows, tf.cast(images, dtype))
        values = tf.einsum("npj,nojc->nopc", columns, values)
        if images.dtype.is_floating:
            return values
        return tf.saturate_cast(tf.round(values), images.dtype)

    def draw(
        self, count: tf.Tensor | int, height: tf.Tensor | int, width: tf.Tensor | int, seed
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns top, left, height and width, int32 `[n]`, and whether to mirror, bool `[n]`.

        Args:
            count: n.
            height: of the images.
            width: of the images.
            seed: int32 `[2]`.
        """
        numbers = tf.random.stateless_uniform([5, count, _ATTEMPTS], seed)
        full_height, full_width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
        share = self.smallest_area + (1 - self.smallest_area) * numbers[0]
        area = share * full_height * full_width
        ratio = tf.exp((2 * numbers[1] - 1) * math.log(self.widest))
        part_width, part_height = tf.round(tf.sqrt(area * ratio)), tf.round(tf.sqrt(area / ratio))
        part_width, part_height = tf.maximum(part_width, 1), tf.maximum(part_height, 1)
        fits = (part_width <= full_width) & (part_height <= full_height)
        top = tf.floor(numbers[2] * (full_height - part_height + 1))
        left = tf.floor(numbers[3] * (full_width - part_width + 1))
        first = tf.argmax(fits, axis=1, output_type=tf.int32)
        side = tf.minimum(full_height, full_width)
        middle = (tf.floor((full_height - side) / 2), tf.floor((full_width - side) / 2), side, side)
        box = [
            tf.where(tf.reduce_any(fits, axis=1), tf.gather(drawn, first, axis=1, batch_dims=1), m)
            for drawn, m in zip((top, left, part_height, part_width), middle, strict=True)
        ]
        return *(tf.cast(number, tf.int32) for number in box), numbers[4, :, 0] < 0.5


def _interpolation(start: tf.Tensor, length: tf.Tensor, size: int, target: int) -> tf.Tensor:
    """Returns weights `[n, target, size]` that scale a stretch of rows to `target` rows.

    A triangle filter, as wide as an output row where the stretch shrinks (antialiasing), cut off at
    the ends of the stretch: what `tf.image.resize` does to the stretch alone.
    """
    start, length = tf.cast(start, tf.float32)[:, None], tf.cast(length, tf.float32)[:, None]
    step = length / target
    centre = start + (tf.range(target, dtype=tf.float32) + 0.5) * step
    rows = tf.range(size, dtype=tf.float32) + 0.5
    distance = tf.abs(rows - centre[:, :, None]) / tf.maximum(step, 1.0)[:, :, None]
    inside = (rows > start) & (rows < start + length)
    weights = tf.nn.relu(1 - distance) * tf.cast(inside, tf.float32)[:, None, :]
    return weights / tf.reduce_sum(weights, axis=2, keepdims=True)


#: by the name that data sources give
AUGMENTATIONS: dict[str, Augmentation | ResizedCropMirror] = {
    "none": Augmentation(padding=0, mirror=False),
    "shift": Augmentation(padding=1, mirror=False),
    "crop_mirror": Augmentation(padding=4, mirror=True),
    "resized_crop_mirror": ResizedCropMirror(),
}


def mirror(images: tf.Tensor) -> tf.Tensor:
    """Returns images `[n, h, w, c]` mirrored left to right (the width axis, never the channels)."""
    return tf.reverse(images, axis=[2])
