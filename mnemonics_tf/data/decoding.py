"""Image files to pixels, by TensorFlow or by Pillow; and whether a file will decode in training."""

import io

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

#: an image with more pixels is refused before it is decoded
MAX_PIXELS = 64 * 2**20

#: what Pillow may open; it knows more formats, some of which start other programs (EPS)
PILLOW_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")

_ORIENTATION = 0x0112  # the EXIF tag


class ImageTooLargeError(ValueError):
    """An image has more pixels than are decoded."""


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
    with _opened(contents) as image:
        check_size(image)
        if image.mode.startswith("I"):  # 16 bits: Pillow would clip them to 8
            values = np.asarray(image)
            image = Image.fromarray((np.clip(values, 0, 2**16 - 1) >> 8).astype(np.uint8))
        else:
            image = ImageOps.exif_transpose(image)
        values = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    return values.reshape(*values.shape[:2], channels)


def _opened(contents: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(contents), formats=PILLOW_FORMATS)
    # Pillow's own limit holds too, which is the program's; so does its warning, if that is raised.
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(
            f"{error} At most {MAX_PIXELS / 1e6:.0f} megapixels are read"
        ) from error


def needs_pillow(contents: bytes) -> bool:
    """Whether TensorFlow would decode a file otherwise than Pillow, or not at all.

    Raises:
        OSError, ValueError, SyntaxError: if it is damaged or no image.
    """
    with _opened(contents) as image:
        if image.getexif().get(_ORIENTATION, 1) != 1:
            return True
        return not (
            (image.format == "JPEG" and image.mode in ("L", "RGB"))
            or (image.format == "PNG" and image.mode in ("L", "RGB", "P", "LA", "RGBA"))
        )


def check_size(image: Image.Image) -> None:
    """Raises ImageTooLargeError if an opened file announces too many pixels."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageTooLargeError(
            f"{width} x {height} pixels, at most {MAX_PIXELS / 1e6:.0f} megapixels are read"
        )


def examine(contents: bytes, channels: int, by_pillow: bool | None = None) -> bool | str:
    """Decodes a file as training will.

    Args:
        contents: of the file.
        channels: 3 or 1.
        by_pillow: whether Pillow decodes it; None finds out which decoder is right.

    Returns:
        Whether Pillow must decode it, or what is wrong with it.
    """
    try:
        with _opened(contents) as image:
            check_size(image)
        if by_pillow is None:
            by_pillow = needs_pillow(contents)
        if by_pillow:
            decode_any(contents, channels)
        else:
            _decode_as_training(contents, channels)
        return by_pillow
    except Image.UnidentifiedImageError:
        return "no image that can be recognised"
    except tf.errors.OpError as error:
        return reason(error)
    except Exception as error:  # noqa: BLE001, decoders raise anything on hostile bytes
        return f"{error}" or type(error).__name__


def reason(error: tf.errors.OpError) -> str:
    """Returns what TensorFlow says, without the names of its operations in front and behind."""
    return str(error.message).rpartition("}} ")[2].partition(" [Op:")[0]


def _decode_as_training(contents: bytes, channels: int) -> None:
    with tf.device("/CPU:0"):
        decode_plain(contents, channels)
        if contents.startswith(b"\xff\xd8\xff"):
            # Training decodes a part, whose place it takes from what this says.
            tf.io.extract_jpeg_shape(contents)
