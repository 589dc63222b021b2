"""How a memory holds its exemplars: all in one array of pixels, or a code for each class."""

import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.codecs.base import Codec
from mnemonics_tf.run import files

_COPIED_AT_ONCE = 256


class PixelStorage:
    """Images in one array, a class after the other.

    More than `MAPPED_BYTES` lie in a file of its own (nameless, so that it goes with the array) or
    in the file that they were read from.

    Args:
        images: uint8 `[n, h, w, c]`, memory-mapped if there are many.
        directory: where files for many images are made; None makes none.
    """

    def __init__(self, images: np.ndarray, directory: pathlib.Path | None = None):
        self.images = images
        self._directory = directory

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels)."""
        return self.images.shape[1:]

    @property
    def num_bytes(self) -> int:
        """Bytes of the images."""
        return self.images.nbytes

    def extended(self, images: np.ndarray, labels: np.ndarray) -> "PixelStorage":
        """Returns a storage with images of new classes behind the others."""
        del labels
        joined = self._allocate(len(self.images) + len(images))
        _copy(self.images, joined[: len(self.images)])
        joined[len(self.images) :] = images
        return PixelStorage(joined, self._directory)

    def replaced(self, images: np.ndarray, rows: np.ndarray, labels: np.ndarray) -> "PixelStorage":
        """Returns a storage with other images at some rows."""
        del labels
        changed = self._allocate(len(self.images))
        _copy(self.images, changed)
        changed[rows] = images
        return PixelStorage(changed, self._directory)

    def kept(self, rows: np.ndarray, labels: np.ndarray) -> "PixelStorage":
        """Returns a storage of the images at some rows alone."""
        del labels
        kept = self._allocate(len(rows))
        _copy(self.images, kept, rows)
        return PixelStorage(kept, self._directory)

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what a file must hold, beside the labels."""
        return {"images": self.images}

    def _allocate(self, count: int) -> np.ndarray:
        shape = (count, *self.images.shape[1:])
        if self._directory is None or int(np.prod(shape)) < files.MAPPED_BYTES:
            return np.empty(shape, np.uint8)
        self._directory.mkdir(parents=True, exist_ok=True)
        # The mapping keeps the file in being.
        with tempfile.TemporaryFile(dir=self._directory) as file:
            return np.memmap(file, np.uint8, "w+", shape=shape)


class CodeStorage:
    """A code for each class; pixels exist while they are asked for.

    Args:
        codec: of the codes.
        codes: by label, ascending.
        image_shape: (height, width, channels).
    """

    def __init__(self, codec: Codec, codes: Mapping[int, Any], image_shape: tuple[int, ...]):
        self.image_shape = image_shape
        self._codec = codec
        self._codes = dict(codes)

    @property
    def images(self) -> np.ndarray:
        """The images of all classes, decoded, uint8 `[n, h, w, c]`."""
        decoded = [self._codec.decode(code) for code in self._codes.values()]
        shapes = {images.shape[1:] for images in decoded} - {tuple(self.image_shape)}
        if shapes:
            raise UserError(
                f"stored exemplars are damaged: they are {sorted(shapes)}, not {self.image_shape}: "
                "put the right file back"
            )
        return np.concatenate([np.zeros((0, *self.image_shape), np.uint8), *decoded])

    @property
    def num_bytes(self) -> int:
        """Bytes of the codes."""
        return sum(self._codec.num_bytes(code) for code in self._codes.values())

    def extended(self, images: np.ndarray, labels: np.ndarray) -> "CodeStorage":
        """Returns a storage with the code of each new class behind the others."""
        return self._with(encoded(self._codec, images, labels))

    def replaced(self, images: np.ndarray, rows: np.ndarray, labels: np.ndarray) -> "CodeStorage":
        """Returns a storage in which classes with other images at some rows are encoded anew."""
        changed = {}
        for label in np.unique(labels[rows]):
            members = np.flatnonzero(labels == label)
            whole = self._codec.decode(self._codes[int(label)]).copy()
            mine = np.isin(rows, members)
            whole[np.searchsorted(members, rows[mine])] = images[mine]
            changed[int(label)] = self._codec.encode(whole)
        return self._with(changed)

    def kept(self, rows: np.ndarray, labels: np.ndarray) -> "CodeStorage":
        """Returns a storage of the images at some rows; classes that lose some are encoded anew."""
        codes = {}
        for label, code in self._codes.items():
            members = np.flatnonzero(labels == label)
            mine = np.isin(members, rows)
            if mine.all():
                codes[label] = code
            elif mine.any():
                codes[label] = self._codec.encode(self._codec.decode(code)[mine])
        return CodeStorage(self._codec, codes, self.image_shape)

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what a file must hold, beside the labels."""
        codes = list(self._codes.values())
        return {
            "codes": np.frombuffer(b"".join(codes), np.uint8),
            "code_bytes": np.array([len(code) for code in codes], np.int64),
            "image_shape": np.array(self.image_shape, np.int64),
        }

    def _with(self, codes: Mapping[int, Any]) -> "CodeStorage":
        return CodeStorage(self._codec, self._codes | dict(codes), self.image_shape)


def encoded(codec: Codec, images: np.ndarray, labels: np.ndarray) -> dict[int, Any]:
    """Returns the code of each class by label, ascending."""
    return {
        int(label): codec.encode(np.asarray(images[labels == label])) for label in np.unique(labels)
    }


def from_arrays(
    codec: Codec, arrays: Mapping[str, np.ndarray], directory: pathlib.Path | None
) -> PixelStorage | CodeStorage:
    """Returns the storage that `arrays()` described.

    Raises:
        KeyError: if an array is missing.
        ValueError: if the arrays do not belong together.
    """
    if codec.stores_pixels:
        return PixelStorage(arrays["images"], directory)
    classes, sizes = np.unique(arrays["labels"]), arrays["code_bytes"]
    codes, shape = arrays["codes"], tuple(int(side) for side in arrays["image_shape"])
    if len(sizes) != len(classes) or sizes.sum() != len(codes) or len(shape) != 3:
        raise ValueError(f"{len(codes)} bytes in {len(sizes)} codes for {len(classes)} classes")
    ends = np.cumsum(sizes)
    parts = zip(classes, ends - sizes, ends, strict=True)
    return CodeStorage(codec, {int(k): codes[a:b].tobytes() for k, a, b in parts}, shape)


def _copy(source: np.ndarray, target: np.ndarray, rows: np.ndarray | None = None) -> None:
    """Copies images, at `rows` or all, a few at a time."""
    for start in range(0, len(target), _COPIED_AT_ONCE):
        part = slice(start, start + _COPIED_AT_ONCE)
        target[part] = source[part] if rows is None else source[rows[part]]
