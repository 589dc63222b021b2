"""JPEG: an image is the scan of a file; what all files of a class have in common is stored once."""

import io
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.codecs.relaxed_jpeg import relaxed_jpeg

_MODES = {1: "L", 3: "RGB"}
_LARGEST_SIDE = 65_500  # of libjpeg; the format has 65,535
_LENGTH_BYTES = 2  # in front of the head: how long it is
_START_OF_SCAN = 0xDA
#: ends every file, and occurs nowhere within its scan, where a byte 0xFF is followed by 0
_END_OF_IMAGE = b"\xff\xd9"


class Jpeg:
    """Baseline JPEG with colours at half the resolution (4:2:0) and the standard's Huffman tables.

    A file begins with its tables, size and scan header, which are the same for all images of one
    shape and quality: they are the head of a class's code, 623 bytes. The rest is an image's
    stream, which ends with its own marker. Head and stream together are a file that any decoder
    reads.

    Readers need not agree in the last bit, so there is one: TensorFlow's `decode_jpeg` with
    `INTEGER_ACCURATE` (libjpeg's slow integer DCT) and smooth upscaling of colours, in training as
    in all else.

    Source: ITU-T Recommendation T.81, 1992, Annex B: the abbreviated formats.

    Args:
        quality: of the quantisation tables, from 1 to 100, as libjpeg scales them.
    """

    stores_pixels = False
    lossless = False

    def __init__(self, quality: int):
        self.quality = quality

    def encode(self, images: np.ndarray) -> bytes:
        """Returns the head's length, the head and the streams.

        Args:
            images: uint8 `[n, h, w, c]` with 1 or 3 channels, one at least.

        Raises:
            UserError: if there are more channels, or more pixels than JPEG can hold.
        """
        _, height, width, channels = images.shape
        if channels not in _MODES or max(height, width) > _LARGEST_SIDE:
            raise UserError(
                f"--codec=jpeg can't store images of {height} x {width} pixels and {channels} "
                f"channels: it takes 1 or 3 channels and up to {_LARGEST_SIDE} pixels a side; pass "
                "--codec=pixels"
            )
        files = [self._file(image) for image in images]
        end = _end_of_head(files[0])
        head = files[0][:end]
        if any(file[:end] != head for file in files):
            raise RuntimeError("JPEG files of one shape and quality begin differently")
        return self.join(head, [file[end:] for file in files])

    def decode(self, code: bytes) -> np.ndarray:
        """Returns the images of a code, uint8 `[n, h, w, c]`.

        Raises:
            UserError: if the code is damaged.
        """
        head, streams = self.split(code)
        try:
            with tf.device("/CPU:0"):
                return np.stack([self.decode_stream(head, one).numpy() for one in streams])
        except (tf.errors.OpError, ValueError) as error:
            raise UserError(f"exemplars stored as JPEG are damaged ({error})") from error

    def num_bytes(self, code: bytes) -> int:
        """Returns the bytes of the code, its head included."""
        return len(code)

    def split(self, code: bytes) -> tuple[bytes, list[bytes]]:
        """Returns the head and the streams of a code."""
        end = _LENGTH_BYTES + int.from_bytes(code[:_LENGTH_BYTES], "big")
        streams = code[end:].split(_END_OF_IMAGE)[:-1]
        return code[_LENGTH_BYTES:end], [stream + _END_OF_IMAGE for stream in streams]

    def join(self, head: bytes, streams: Sequence[bytes]) -> bytes:
        """Returns the code of a head and its streams."""
        return len(head).to_bytes(_LENGTH_BYTES, "big") + head + b"".join(streams)

    def decode_stream(self, head: tf.Tensor, stream: tf.Tensor) -> tf.Tensor:
        """Returns one image, uint8 `[h, w, c]`; in a graph."""
        return tf.io.decode_jpeg(
            tf.strings.join([head, stream]), fancy_upscaling=True, dct_method="INTEGER_ACCURATE"
        )

    def relaxed(self, images: tf.Tensor) -> tf.Tensor:
        """Returns what encoding and decoding make of images, with a derivative.

        Args:
            images: of pixels from 0 to 255, float `[n, h, w, c]`.
        """
        luminance, chrominance = self._tables()
        return relaxed_jpeg(images, luminance, chrominance)

    def _tables(self) -> list[np.ndarray]:
        """Returns the quantisation tables of light and of colours, `[8, 8]`."""
        stream = io.BytesIO()
        Image.new("RGB", (1, 1)).save(stream, "JPEG", quality=self.quality)
        tables = Image.open(stream).quantization  # type: ignore[attr-defined]
        return [np.reshape(tables[place], (8, 8)) for place in (0, 1)]

    def _file(self, image: np.ndarray) -> bytes:
        stream, channels = io.BytesIO(), image.shape[-1]
        picture = Image.fromarray(image if channels == 3 else image[..., 0], _MODES[channels])
        # Tables made for an image would be smaller, and its own.
        options = {"subsampling": "4:2:0"} if channels == 3 else {}
        picture.save(stream, "JPEG", quality=self.quality, optimize=False, **options)
        return stream.getvalue()


def _end_of_head(file: bytes) -> int:
    """Returns where the scan of a JPEG file begins: behind the segment that announces it."""
    position = 2  # behind the marker that begins the file
    while True:
        marker, length = file[position + 1], file[position + 2 : position + 4]
        position += 2 + int.from_bytes(length, "big")
        if marker == _START_OF_SCAN:
            return position
