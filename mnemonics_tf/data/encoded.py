"""Image files: decoded, fitted to one size and cropped inside a TensorFlow graph, as needed."""

import concurrent.futures
import dataclasses
import functools
import os

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.decoding import decode_any, decode_plain, examine
from mnemonics_tf.data.image_set import ImageSet, for_all_graphs
from mnemonics_tf.data.storage import Storage
from mnemonics_tf.errors import UserError
from mnemonics_tf.monitoring.progress import LOGGER

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
        storage: where the bytes of the files come from.
        keys: `[n, ...]`, what the storage knows them by.
        labels: int `[n]`.
        view: what becomes of the images.
        by_pillow: bool `[n]`, which files Pillow must decode.
    """

    batched = False

    def __init__(
        self,
        storage: Storage,
        keys: np.ndarray,
        labels: np.ndarray,
        view: View,
        by_pillow: np.ndarray,
    ):
        self._storage = storage
        self._keys = keys
        self.labels = np.asarray(labels, np.int32)
        self._view = view
        self._by_pillow = by_pillow
        self.image_shape = view.image_shape

    @functools.cached_property
    def _tensors(self) -> tuple[tf.Tensor, tf.Tensor]:
        with for_all_graphs():
            return tf.constant(self._keys), tf.constant(self._by_pillow)

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
        keys, by_pillow = self._tensors
        return self._storage.read(tf.gather(keys, index)), tf.gather(by_pillow, index)

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
            self._storage, self._keys[index], self.labels[index], self._view, self._by_pillow[index]
        )

    def relabel(self, labels: np.ndarray) -> "EncodedImageSet":
        return EncodedImageSet(self._storage, self._keys, labels, self._view, self._by_pillow)

    def check_files(self) -> None:
        def problem(row: int) -> str | None:
            try:
                contents = self._storage.fetch(self._keys[row])
            except (OSError, ValueError) as error:
                return str(error)
            found = examine(contents, self._view.channels, bool(self._by_pillow[row]))
            return found if isinstance(found, str) else None

        LOGGER.warning("reading failed: %d images are decoded to name a broken one", len(self))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for row, found in enumerate(pool.map(problem, range(len(self)))):
                if found:
                    pool.shutdown(cancel_futures=True)
                    raise UserError(
                        f"{self._storage.describe(self._keys[row])} could be decoded before and "
                        f"can't be now: {found}; put the file back as it was, and start the same "
                        "command again"
                    )
