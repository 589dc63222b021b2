"""Image files: decoded, fitted to one size and cropped inside a TensorFlow graph, as needed."""

import dataclasses
import io
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from mnemonics_tf.data.image_set import ImageSet

#: an image with more pixels is refused before it is decoded
MAX_PIXELS = 64 * 2**20
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit warns first, and refuses only twice as many

#: share of the shorter side that evaluation leaves: 256 pixels, of which the middle 224 count
CENTRE_CROP = 224 / 256


@dataclasses.dataclass(frozen=True)
class View:
    """How images of any size become images of one size.

    Attributes:
        size: height and width of the result.
        centre: share of the shorter side that evaluation leaves of an image.
        channels: 3 or 1.
    """

    size: int
    centre: float
    channels: int = 3

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of the results."""
        return self.size, self.size, self.channels

    def fit(self, image: tf.Tensor) -> tf.Tensor:
        """Returns the middle of a decoded image: shorter side to `size / centre`, centre crop.

        Args:
            image: uint8 `[h, w, c]`.

        Returns:
            uint8 `[size, size, c]`.
        """
        height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
        scale = self.size / self.centre / tf.minimum(height, width)
        # Rounded like the corner of a crop of a resized image, so that sizes that need no resizing
        # keep their pixels.
        top = tf.round((tf.round(height * scale) - self.size) / 2)
        left = tf.round((tf.round(width * scale) - self.size) / 2)
        return self._scaled(image, tf.stack([scale, scale]), -tf.stack([top, left]))

    def crop(
        self, image: tf.Tensor, top: tf.Tensor, left: tf.Tensor, height: tf.Tensor, width: tf.Tensor
    ) -> tf.Tensor:
        """Returns a part of a decoded image, scaled to uint8 `[size, size, c]`."""
        return self.stretch(image[top : top + height, left : left + width])

    def stretch(self, image: tf.Tensor) -> tf.Tensor:
        """Returns a decoded image, scaled to uint8 `[size, size, c]`."""
        shape = tf.cast(tf.shape(image)[:2], tf.float32)
        return self._scaled(image, self.size / shape, tf.zeros([2]))

    def _scaled(self, image: tf.Tensor, scale: tf.Tensor, translation: tf.Tensor) -> tf.Tensor:
        # What tf.image.resize calls; with the translation it computes no pixel that a crop drops.
        scaled = tf.raw_ops.ScaleAndTranslate(
            images=image[None],
            size=[self.size, self.size],
            scale=scale,
            translation=translation,
            kernel_type="triangle",
            antialias=True,
        )[0]
        return tf.ensure_shape(tf.saturate_cast(tf.round(scaled), tf.uint8), self.image_shape)


class EncodedImageSet(ImageSet):
    """Images in files, decoded when they are asked for.

    TensorFlow decodes JPEG and PNG. Pillow decodes the rest: it knows more formats, CMYK and the
    orientation that a camera noted (EXIF).

    Args:
        read: maps a key to the bytes of its file, inside a graph.
        keys: `[n, ...]`, of a type that tensors can hold.
        labels: int `[n]`.
        view: what becomes of the images.
        by_pillow: bool `[n]`, which files Pillow must decode.
    """

    batched = False

    def __init__(
        self,
        read: Callable[[tf.Tensor], tf.Tensor],
        keys: np.ndarray,
        labels: np.ndarray,
        view: View,
        by_pillow: np.ndarray,
    ):
        self._read = read
        self._keys = keys
        self.labels = np.asarray(labels, np.int32)
        self._view = view
        self._by_pillow = by_pillow
        self.image_shape = view.image_shape
        self._tensors = None

    def load(self, index: tf.Tensor) -> tf.Tensor:
        contents, by_pillow = self._contents(index)
        return self._view.fit(self._decode(contents, by_pillow))

    def load_cropped(self, index, seed, augmentation):
        contents, by_pillow = self._contents(index)

        def draw(shape):
            *box, flip = augmentation.draw(1, shape[0], shape[1], seed)
            return [number[0] for number in box], flip[0]

        def crop_jpeg():
            # Only the blocks that the part touches are decoded.
            box, flip = draw(tf.io.extract_jpeg_shape(contents))
            part = tf.io.decode_and_crop_jpeg(
                contents, tf.stack(box), self._view.channels, dct_method="INTEGER_ACCURATE"
            )
            return self._view.stretch(part), flip

        def crop_decoded():
            image = self._decode(contents, by_pillow)
            box, flip = draw(tf.shape(image))
            return self._view.crop(image, *box), flip

        plain_jpeg = tf.io.is_jpeg(contents) & ~by_pillow
        image, flip = tf.cond(plain_jpeg, crop_jpeg, crop_decoded)
        # Only where needed, and not by slicing backwards, which takes longer than to decode.
        return tf.cond(flip, lambda: tf.reverse(image, axis=[1]), lambda: image)

    def _contents(self, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if self._tensors is None:
            with tf.init_scope(), tf.device("/CPU:0"):
                self._tensors = tf.constant(self._keys), tf.constant(self._by_pillow)
        keys, by_pillow = self._tensors
        return self._read(tf.gather(keys, index)), tf.gather(by_pillow, index)

    def _decode(self, contents: tf.Tensor, by_pillow: tf.Tensor) -> tf.Tensor:
        channels = self._view.channels

        def decode():
            return decode_plain(contents, channels)

        if not self._by_pillow.any():
            return decode()

        def decode_by_pillow():
            image = tf.numpy_function(
                lambda data: decode_any(data, channels), [contents], tf.uint8, stateful=False
            )
            return tf.ensure_shape(image, [None, None, channels])

        return tf.cond(by_pillow, decode_by_pillow, decode)

    def subset(self, index: np.ndarray) -> "EncodedImageSet":
        return EncodedImageSet(
            self._read, self._keys[index], self.labels[index], self._view, self._by_pillow[index]
        )

    def relabel(self, labels: np.ndarray) -> "EncodedImageSet":
        return EncodedImageSet(self._read, self._keys, labels, self._view, self._by_pillow)


def decode_plain(contents: tf.Tensor, channels: int) -> tf.Tensor:
    """Returns a JPEG or PNG file as uint8 `[h, w, channels]`, by TensorFlow."""
    image = tf.io.decode_jpeg(contents, channels, dct_method="INTEGER_ACCURATE")
    return tf.ensure_shape(image, [None, None, channels])


def decode_any(contents: bytes, channels: int) -> np.ndarray:
    """Returns any image file as uint8 `[h, w, channels]`, upright, by Pillow.

    Raises:
        OSError, ValueError, SyntaxError: if it is damaged or not one.
        ImageTooLargeError: before anything is decoded.
    """
    with Image.open(io.BytesIO(contents)) as image:
        check_size(image)
        if image.mode.startswith("I"):  # 16 bits: Pillow would clip them to 8
            values = np.asarray(image)
            image = Image.fromarray((np.clip(values, 0, 2**16 - 1) >> 8).astype(np.uint8))
        else:
            image = ImageOps.exif_transpose(image)
        values = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    return values.reshape(*values.shape[:2], channels)


def needs_pillow(image: Image.Image) -> bool:
    """Whether TensorFlow would decode an opened file otherwise than Pillow, or not at all."""
    if image.getexif().get(_ORIENTATION, 1) != 1:
        return True
    return not (
        (image.format == "JPEG" and image.mode in ("L", "RGB"))
        or (image.format == "PNG" and image.mode in ("L", "RGB", "P", "LA", "RGBA"))
    )


_ORIENTATION = 0x0112  # the EXIF tag


class ImageTooLargeError(ValueError):
    """An image has more pixels than are decoded."""


def check_size(image: Image.Image) -> None:
    """Raises ImageTooLargeError if an opened file announces too many pixels."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageTooLargeError(
            f"{width} x {height} pixels, at most {MAX_PIXELS / 1e6:.0f} megapixels are read"
        )
