"""Lossless WebP: all exemplars of a class in one mosaic, whose pixels come back bit for bit."""

import functools
import io
import math
import threading

import numpy as np
from PIL import Image

from mnemonics_tf.errors import UserError

_LARGEST_SIDE = 16_383  # of the format
_CHANNELS = (1, 3)
_COUNT_BYTES = 2  # in front of the picture: how many images the mosaic holds
_HEAD_BYTES = _COUNT_BYTES + 5  # height, width and channels follow the count
_MOST_IMAGES = 256**_COUNT_BYTES - 1

#: held while Pillow's limit is lifted: of two threads one would put back what the other had lifted
_LIFTED = threading.Lock()


class LosslessWebP:
    """A mosaic as square as can be; what no image fills is black.

    A class in one picture takes fewer bytes than its images one by one, for they share headers and
    the format's own tables. Grey images are stored as three equal channels.

    Source: Google, "Specification for WebP Lossless Bitstream", 2012.
    """

    stores_pixels = False
    lossless = True

    def encode(self, images: np.ndarray) -> bytes:
        """Returns count, channels and WebP file of the mosaic.

        Args:
            images: uint8 `[n, h, w, c]` with 1 or 3 channels.

        Raises:
            UserError: if there are more channels, or the mosaic exceeds what WebP can hold.
        """
        count, height, width, channels = images.shape
        across, down = _layout(count, height, width)
        if channels not in _CHANNELS:
            raise UserError(
                f"--codec=webp_lossless can't store images of {channels} channels: it takes 1 or "
                "3; pass --codec=pixels"
            )
        if max(across * width, down * height) > _LARGEST_SIDE or count > _MOST_IMAGES:
            raise UserError(
                f"--codec=webp_lossless can't store {count} images of {height} x {width} pixels in "
                f"one picture: it takes pictures up to {_LARGEST_SIDE} pixels wide and high, of "
                f"{_MOST_IMAGES} images at most; pass --codec=pixels, or keep fewer exemplars"
            )
        mosaic = np.zeros((down * across, height, width, 3), np.uint8)
        mosaic[:count] = images
        rows = mosaic.reshape(down, across, height, width, 3).swapaxes(1, 2)
        stream = io.BytesIO()
        picture = Image.fromarray(rows.reshape(down * height, across * width, 3))
        # exact: colours are kept where nothing would show. 80 and 4: on mosaics of photographs the
        # most that can be asked for (100 and 6) takes a hundred times as long and saves no byte.
        picture.save(stream, "WEBP", lossless=True, quality=80, method=4, exact=True)
        return count.to_bytes(_COUNT_BYTES, "big") + self._shape(images) + stream.getvalue()

    def decode(self, code: bytes) -> np.ndarray:
        """Returns the images of a mosaic, uint8 `[n, h, w, c]`.

        Raises:
            UserError: if the code is damaged.
        """
        count, height, width, channels = shape = self.shape_of(code)
        picture = code[_HEAD_BYTES:]
        try:
            mosaic = np.asarray(_opened(picture).convert("RGB"))
            down, across = mosaic.shape[0] // height, mosaic.shape[1] // width
            rows = mosaic.reshape(down, height, across, width, 3).swapaxes(1, 2)
            images = rows.reshape(down * across, height, width, 3)[:count, ..., :channels]
            if images.shape != shape:
                raise ValueError(f"a picture of images {images.shape}, not {shape}")
        except Exception as error:  # Pillow raises nearly anything at damaged files
            raise UserError(f"exemplars stored as lossless WebP are damaged ({error})") from error
        return np.ascontiguousarray(images)

    def shape_of(self, code: bytes) -> tuple[int, ...]:
        """Returns the shape, `[n, h, w, c]`, that a code says its images have."""
        head = code[:_HEAD_BYTES]
        parts = (head[:2], head[2:4], head[4:6], head[6:])
        return tuple(int.from_bytes(part, "big") for part in parts)

    def most_images(self, image_shape: tuple[int, ...]) -> int:
        """Returns up to how many images of a shape, `(h, w, c)`, a picture can hold."""
        return _most_images(*image_shape[:2], _LARGEST_SIDE)

    def num_bytes(self, code: bytes) -> int:
        """Returns the bytes of the code, its header included."""
        return len(code)

    def _shape(self, images: np.ndarray) -> bytes:
        _, height, width, channels = images.shape
        return b"".join(
            side.to_bytes(size, "big") for side, size in ((height, 2), (width, 2), (channels, 1))
        )


def _layout(count: int, height: int, width: int) -> tuple[int, int]:
    """Returns how many images stand side by side in a mosaic, and how many rows it has."""
    across = max(1, math.ceil(math.sqrt(count * height / width)))
    return across, math.ceil(count / across)


@functools.cache
def _most_images(height: int, width: int, side: int) -> int:
    """Returns up to how many images a mosaic of at most `side` pixels, wide and high, holds."""
    for count in range(1, _MOST_IMAGES + 1):
        across, down = _layout(count, height, width)
        if max(across * width, down * height) > side:
            return count - 1
    return _MOST_IMAGES


def _opened(picture: bytes) -> Image.Image:
    """Opens a mosaic, which may have more pixels than Pillow takes a picture from elsewhere for."""
    with _LIFTED:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(picture), formats=["WEBP"])
        finally:
            Image.MAX_IMAGE_PIXELS = limit
