"""What a codec is asked: images of one class to codes, and back."""

from typing import Any, Protocol

import numpy as np


class Codec(Protocol):
    """Stores the exemplars of a class; it is built without arguments.

    Attributes:
        stores_pixels: whether codes are the images themselves, uint8 `[n, h, w, c]`. All classes'
            then lie in one array, which may be mapped from a file; of any other codec each class
            is a code by itself.
    """

    stores_pixels: bool

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
