"""The exemplar memory: what is kept of classes that have passed, within a budget."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.codecs import CODECS, WITH_QUALITY, make_codec
from mnemonics_tf.exemplars.storage import (
    CodeStorage,
    PixelStorage,
    encoded,
    first_rows,
    from_arrays,
)
from mnemonics_tf.run.files import read_arrays, write_arrays
from mnemonics_tf.settings import ExemplarSettings

#: of codecs that have one, where none is told
QUALITY = ExemplarSettings().jpeg_quality


class ExemplarMemory:
    """Exemplars and their labels, a class after the other, best first within a class.

    Args:
        images: uint8 `[n, h, w, c]`.
        labels: `[n]`, ascending.
        directory: where files for many images are made.
        codec: what exemplars are stored as, by its name.
        quality: of a codec that has one.

    Attributes:
        labels: int32 `[n]`, ascending.
        codec: by its name.
        quality: of a codec that has one.

    Raises:
        UserError: if images and labels do not belong together, or the codec can't store them.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        directory: pathlib.Path | None = None,
        codec: str = "pixels",
        quality: int = QUALITY,
    ):
        if images.dtype != np.uint8 or len(images) != len(labels) or np.any(np.diff(labels) < 0):
            raise UserError(
                f"an exemplar memory of dtype {images.dtype}, {len(images)} images and "
                f"{len(labels)} labels; expected uint8 images with ascending labels"
            )
        self.labels = labels.astype(np.int32)
        self.codec = codec
        self.quality = quality
        coder = make_codec(codec, quality)
        self._storage: PixelStorage | CodeStorage = (
            PixelStorage(images, directory)
            if coder.stores_pixels
            else CodeStorage(coder, encoded(coder, images, labels), images.shape[1:])
        )

    @classmethod
    def empty(
        cls,
        image_shape: tuple[int, ...],
        directory: pathlib.Path | None = None,
        codec: str = "pixels",
        quality: int = QUALITY,
    ) -> "ExemplarMemory":
        """Returns a memory without exemplars."""
        images = np.zeros((0, *image_shape), np.uint8)
        return cls(images, np.zeros([0], np.int32), directory, codec, quality)

    @classmethod
    def load(cls, path: pathlib.Path, codec: str | None = None) -> "ExemplarMemory":
        """Reads what `save` wrote.

        Args:
            path: of the file.
            codec: a user's own, if it is one; those that there are are known by the file.

        Raises:
            UserError: if the file is missing or damaged, or of another codec.
        """
        return cls.from_arrays(read_arrays(path), str(path), path.parent, codec)

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, np.ndarray],
        place: str,
        directory: pathlib.Path | None = None,
        codec: str | None = None,
    ) -> "ExemplarMemory":
        """Returns the memory that `arrays` described.

        Args:
            arrays: as read.
            place: where they come from, for messages.
            directory: where files for many images are made.
            codec: as for `load`.

        Raises:
            UserError: if they are those of no memory, or of another codec.
        """
        stored = str(arrays.get("codec", "pixels"))
        if stored not in CODECS and stored != codec:
            raise UserError(
                f"{place} is stored by the codec {stored!r}, which is none of "
                f"{', '.join(CODECS)}: pass it as --codec"
            )
        _check_labels(arrays.get("labels"), place)
        try:
            quality = int(arrays.get("quality", QUALITY))
            storage = from_arrays(make_codec(stored, quality), arrays, directory)
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise UserError(
                f"{place} holds {sorted(arrays)}; expected exemplars and labels ({error})"
            ) from error
        return cls._of(storage, arrays["labels"], stored, quality)

    @classmethod
    def _of(
        cls, storage: PixelStorage | CodeStorage, labels: np.ndarray, codec: str, quality: int
    ) -> "ExemplarMemory":
        memory = cls.__new__(cls)
        memory.labels, memory._storage = labels.astype(np.int32), storage
        memory.codec, memory.quality = codec, quality
        return memory

    def _with(self, storage: PixelStorage | CodeStorage, labels: np.ndarray) -> "ExemplarMemory":
        return self._of(storage, labels, self.codec, self.quality)

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what a file must hold; that of plain pixels is what it always was."""
        named = {} if self.codec == "pixels" else {"codec": np.array(self.codec)}
        if self.codec in WITH_QUALITY:
            named["quality"] = np.array(self.quality)
        return {**self._storage.arrays(), "labels": self.labels, **named}

    def save(self, path: pathlib.Path) -> None:
        """Writes the memory as an .npz, atomically."""
        write_arrays(path, self.arrays())

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> np.ndarray:
        """The exemplars as they will be seen, uint8 `[n, h, w, c]`; decoded at every call.

        Raises:
            UserError: if codes from a file hold other images than the file says.
        """
        return self._storage.all_images(self.labels)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels)."""
        return self._storage.image_shape

    @property
    def most_of_class(self) -> int:
        """Up to how many exemplars a class can have, for its codec's sake."""
        return self._storage.most_of_class

    @property
    def bytes_used(self) -> int:
        """Bytes of what is stored; a label is its exemplar's position and costs nothing."""
        return int(self.bytes_by_class().sum())

    def bytes_by_class(self) -> np.ndarray:
        """Returns the bytes of what is stored of each class, int `[largest label + 1]`."""
        return self._storage.bytes_by_class(self.labels)

    def bytes_of(self, images: np.ndarray) -> int:
        """Returns the bytes that images would take here as a class of their own."""
        return self._storage.bytes_of(images)

    def number_within(self, images: np.ndarray, num_bytes: int) -> int:
        """Returns how many images, from the first on, would fit here as a class of so many bytes.

        Args:
            images: uint8 `[n, h, w, c]`, best first.
            num_bytes: that the class may take.
        """
        return self._storage.number_within(images, num_bytes)

    def images_at(self, rows: np.ndarray) -> np.ndarray:
        """Returns the exemplars at some rows, uint8 `[m, h, w, c]`, without decoding all."""
        return self._storage.images_at(rows, self.labels)

    def as_image_set(self, rows: np.ndarray | None = None) -> ImageSet:
        """Returns the exemplars, at `rows` or all, for a pipeline.

        What is a stream stays one until it is loaded.

        Raises:
            UserError: if codes from a file hold other images than the file says.
        """
        return self._storage.image_set(self.labels, rows)

    def extended(self, images: np.ndarray, labels: np.ndarray) -> "ExemplarMemory":
        """Returns a memory with exemplars of new classes appended (Algorithm 1, line 20)."""
        joined = np.concatenate([self.labels, labels])
        return self._with(self._storage.extended(images, labels), joined)

    def with_images(self, images: np.ndarray, rows: np.ndarray | None = None) -> "ExemplarMemory":
        """Returns a memory in which the exemplars at `rows`, or all, have other pixels."""
        rows = np.arange(len(self)) if rows is None else rows
        storage = self._storage.replaced(images, rows, self.labels)
        return self._with(storage, self.labels)

    def with_classes_of(self, other: "ExemplarMemory", labels: Sequence[int]) -> "ExemplarMemory":
        """Returns a memory in which some classes are stored as another one stores them.

        Args:
            other: of the same labels, with the same codec, which stores no plain pixels: these
                take the same bytes whatever they are.
            labels: of the classes.
        """
        mine, theirs = self._storage, other._storage
        assert isinstance(mine, CodeStorage), "plain pixels"
        assert isinstance(theirs, CodeStorage), "plain pixels"
        return self._with(mine.with_those_of(theirs, labels), self.labels)

    def trimmed(self, quota: int) -> "ExemplarMemory":
        """Returns at most `quota` exemplars a class, the first ones (Algorithm 1, line 17)."""
        return self.kept(first_rows(self.labels, quota))

    def of_first_classes(self, number: int) -> "ExemplarMemory":
        """Returns the exemplars of the classes 0..number - 1."""
        return self.kept(np.flatnonzero(self.labels < number))

    def rows_within(self, num_bytes: int) -> np.ndarray:
        """Returns the rows of each class's first exemplars, as many as so many bytes hold.

        What is stored of a class, tables and headers included, then takes no more; a class whose
        first exemplar takes more has none.
        """
        return self._storage.rows_within(num_bytes, self.labels)

    def kept(self, rows: np.ndarray) -> "ExemplarMemory":
        """Returns a memory of the exemplars at some rows alone, ascending."""
        if len(rows) == len(self):
            return self
        return self._with(self._storage.kept(rows, self.labels), self.labels[rows])


def _check_labels(labels: np.ndarray | None, place: str) -> None:
    if labels is None:
        raise UserError(f"{place} holds no labels of exemplars: put the right file back")
    numbers = labels.dtype.kind in "iu" and labels.ndim == 1
    if not numbers or np.any(labels < 0) or np.any(labels > np.iinfo(np.int32).max):
        raise UserError(
            f"{place} holds labels {labels.dtype} of shape {labels.shape}; expected a whole number "
            "from 0 up for each exemplar: put the right file back"
        )
    if np.any(labels[1:] < labels[:-1]):
        raise UserError(
            f"{place} holds labels that are not ascending, where a class stands after the other: "
            "put the right file back"
        )
