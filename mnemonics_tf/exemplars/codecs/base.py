"""What a codec is asked: images of one class to codes, and back."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tensorflow as tf


class Codec(Protocol):
    """Stores the exemplars of a class; it is built without arguments.

    Attributes:
        stores_pixels: whether codes are the images themselves, uint8 `[n, h, w, c]`. All classes'
            then lie in one array, which may be mapped from a file; of any other codec each class
            is a code by itself.
        lossless: whether decoding gives every pixel back. A codec without the attribute may lose
            some.
    """

    stores_pixels: bool
    lossless: bool

    def encode(self, images: np.ndarray) -> Any:
        """Returns the code of one class: bytes, or the pixels themselves.

        Args:
            images: uint8 `[n, h, w, c]`, best first.

        Raises:
            UserError: if the codec can't store such images.
        """

    def decode(self, code: Any) -> np.ndarray:
        """Returns the images that a code stands for, uint8 `[n, h, w, c]`."""

    def num_bytes(self, code: Any) -> int:
        """Returns the bytes that a code takes, headers and tables included."""


@runtime_checkable
class StreamCodec(Protocol):
    """A codec whose code is a head, which a class has once, and a stream for every image.

    An image is then decoded alone, on its way into a batch, and given up without encoding others.
    It has these beside the methods of `Codec`.
    """

    def split(self, code: Any) -> tuple[bytes, list[bytes]]:
        """Returns the head and the streams of a code."""

    def join(self, head: bytes, streams: Sequence[bytes]) -> Any:
        """Returns the code of a head and streams that were made with it."""

    def decode_stream(self, head: tf.Tensor, stream: tf.Tensor) -> tf.Tensor:
        """Returns one image, uint8 `[h, w, c]`; in a graph.

        Args:
            head: a string, scalar.
            stream: a string, scalar.
        """


@runtime_checkable
class TellingCodec(Protocol):
    """A codec whose code tells which images it holds before it is decoded.

    A file whose labels do not go with its codes is then refused as it is read. It has this beside
    the methods of `Codec`.
    """

    def shape_of(self, code: Any) -> tuple[int, ...]:
        """Returns the shape, `[n, h, w, c]`, that a code says its images have."""


@runtime_checkable
class LimitedCodec(Protocol):
    """A codec whose code holds no more than some number of images.

    It has this beside the methods of `Codec`, so that more are refused before a run begins.
    """

    def most_images(self, image_shape: tuple[int, ...]) -> int:
        """Returns up to how many images of a shape, `(h, w, c)`, a code can hold."""


@runtime_checkable
class RelaxedCodec(Protocol):
    """A codec that loses something, and whose loss has a derivative: exemplars learn through it.

    It has this beside the methods of `Codec`.
    """

    def relaxed(self, images: tf.Tensor) -> tf.Tensor:
        """Returns about what `decode(encode(images))` does, with a derivative; in a graph.

        Args:
            images: of pixels from 0 to 255, float `[n, h, w, c]`, neither rounded nor clipped.
        """
