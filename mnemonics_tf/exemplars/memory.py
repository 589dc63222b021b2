"""The exemplar memory: what is kept of classes that have passed, within a budget."""

import pathlib
import tempfile

import numpy as np

from mnemonics_tf.data.image_set import ArrayImageSet, MappedImageSet
from mnemonics_tf.errors import UserError
from mnemonics_tf.run import files
from mnemonics_tf.run.files import read_arrays, write_arrays

_COPIED_AT_ONCE = 256


class ExemplarMemory:
    """Images and labels of the exemplars, a class after the other, best first within a class.

    Many large images are kept on disk: a memory of more than `MAPPED_BYTES` lies in a file of
    its own (nameless, so that it goes with the memory) or in the file it was read from.

    Attributes:
        images: uint8 `[n, h, w, c]`, memory-mapped if there are many.
        labels: int32 `[n]`, ascending.
        directory: where files for many images are made.
    """

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, directory: pathlib.Path | None = None
    ):
        self.directory = directory
        self.images = images
        self.labels = labels.astype(np.int32)
        if images.dtype != np.uint8 or len(images) != len(labels) or np.any(np.diff(labels) < 0):
            raise UserError(
                f"an exemplar memory of dtype {images.dtype}, {len(images)} images and "
                f"{len(labels)} labels; expected uint8 images with ascending labels"
            )

    @classmethod
    def empty(
        cls, image_shape: tuple[int, int, int], directory: pathlib.Path | None = None
    ) -> "ExemplarMemory":
        """Returns a memory without exemplars."""
        return cls(np.zeros((0, *image_shape), np.uint8), np.zeros([0], np.int32), directory)

    @classmethod
    def load(cls, path: pathlib.Path) -> "ExemplarMemory":
        """Reads what `save` wrote."""
        arrays = read_arrays(path)
        if not {"images", "labels"} <= set(arrays):
            raise UserError(f"{path} holds {sorted(arrays)}; expected images and labels")
        return cls(arrays["images"], arrays["labels"], path.parent)

    def save(self, path: pathlib.Path) -> None:
        """Writes the memory as an .npz, atomically."""
        write_arrays(path, {"images": self.images, "labels": self.labels})

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def bytes_used(self) -> int:
        """Bytes of the stored images, as the same number of plain images would take."""
        return self.images.nbytes

    def as_image_set(self) -> ArrayImageSet | MappedImageSet:
        """Returns the exemplars for a pipeline."""
        if isinstance(self.images, np.memmap):
            return MappedImageSet(self.images, self.labels)
        return ArrayImageSet(self.images, self.labels)

    def extended(self, images: np.ndarray, labels: np.ndarray) -> "ExemplarMemory":
        """Returns a memory with exemplars of new classes appended (Algorithm 1, line 20)."""
        joined = self._allocate(len(self) + len(images))
        _copy(self.images, joined[: len(self)])
        joined[len(self) :] = images
        return self._with(joined, np.concatenate([self.labels, labels]))

    def with_images(self, images: np.ndarray, rows: np.ndarray | None = None) -> "ExemplarMemory":
        """Returns a memory in which the exemplars at `rows`, or all, have other pixels."""
        if rows is None:
            return self._with(images, self.labels)
        changed = self._allocate(len(self))
        _copy(self.images, changed)
        changed[rows] = images
        return self._with(changed, self.labels)

    def trimmed(self, quota: int) -> "ExemplarMemory":
        """Returns at most `quota` exemplars a class, the first ones (Algorithm 1, line 17)."""
        starts = np.searchsorted(self.labels, self.labels, side="left")
        keep = np.flatnonzero(np.arange(len(self)) - starts < quota)
        if len(keep) == len(self):
            return self
        kept = self._allocate(len(keep))
        _copy(self.images, kept, keep)
        return self._with(kept, self.labels[keep])

    def _with(self, images: np.ndarray, labels: np.ndarray) -> "ExemplarMemory":
        return ExemplarMemory(images, labels, self.directory)

    def _allocate(self, count: int) -> np.ndarray:
        shape = (count, *self.images.shape[1:])
        if self.directory is None or int(np.prod(shape)) < files.MAPPED_BYTES:
            return np.empty(shape, np.uint8)
        self.directory.mkdir(parents=True, exist_ok=True)
        # The mapping keeps the file in being.
        with tempfile.TemporaryFile(dir=self.directory) as file:
            return np.memmap(file, np.uint8, "w+", shape=shape)


def _copy(source: np.ndarray, target: np.ndarray, rows: np.ndarray | None = None) -> None:
    """Copies images, at `rows` or all, a few at a time."""
    for start in range(0, len(target), _COPIED_AT_ONCE):
        part = slice(start, start + _COPIED_AT_ONCE)
        target[part] = source[part] if rows is None else source[rows[part]]
