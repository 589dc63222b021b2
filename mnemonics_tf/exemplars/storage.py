"""How a memory holds its exemplars: all in one array of pixels, or a code for each class."""

import errno
import math
import os
import pathlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mnemonics_tf.data.coded import CodedImageSet
from mnemonics_tf.data.image_set import ArrayImageSet, ImageSet, MappedImageSet
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.codecs.base import Codec, LimitedCodec, StreamCodec, TellingCodec
from mnemonics_tf.exemplars.fitting import chosen, first_that_fit
from mnemonics_tf.run import files

_COPIED_AT_ONCE = 256


class PixelStorage:
    """Images in one array, a class after the other.

    More than `MAPPED_BYTES` lie in a file of its own (nameless, so that it goes with the array) or
    in the file that they were read from.

    Args:
        images: uint8 `[n, h, w, c]`, memory-mapped if there are many.
        directory: where files for many images are made; None makes none.

    Raises:
        UserError: from what makes such a file, if the disk is full or can't be written.
    """

    def __init__(self, images: np.ndarray, directory: pathlib.Path | None = None):
        self.images = images
        self._directory = directory

    most_of_class = sys.maxsize  # the images that a class can have here

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels)."""
        return self.images.shape[1:]

    @property
    def _bytes_of_one(self) -> int:
        return int(np.prod(self.image_shape))

    def all_images(self, labels: np.ndarray) -> np.ndarray:
        """Returns all images, uint8 `[n, h, w, c]`."""
        del labels
        return self.images

    def images_at(self, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Returns the images at some rows, uint8 `[m, h, w, c]`."""
        del labels
        return np.asarray(self.images[rows])

    def image_set(self, labels: np.ndarray, rows: np.ndarray | None = None) -> ImageSet:
        """Returns the images, at `rows` or all, for a pipeline."""
        images: ImageSet = (
            MappedImageSet(self.images, labels)
            if isinstance(self.images, np.memmap)
            else ArrayImageSet(self.images, labels)
        )
        return images if rows is None else images.subset(rows)

    def bytes_by_class(self, labels: np.ndarray) -> np.ndarray:
        """Returns the bytes of each class's images, `[largest label + 1]`."""
        return np.bincount(labels) * self._bytes_of_one

    def bytes_of(self, images: np.ndarray) -> int:
        """Returns the bytes that images take as a class."""
        return images.nbytes

    def number_within(self, images: np.ndarray, num_bytes: int) -> int:
        """Returns how many images, from the first on, fit into so many bytes as a class."""
        return min(len(images), num_bytes // self._bytes_of_one)

    def rows_within(self, num_bytes: int, labels: np.ndarray) -> np.ndarray:
        """Returns the rows of each class's first images, as many as so many bytes hold."""
        return first_rows(labels, num_bytes // self._bytes_of_one)

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
        if self._directory is None or math.prod(shape) < files.MAPPED_BYTES:
            return np.empty(shape, np.uint8)
        with files.user_error_on_disk_trouble(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
            # The mapping keeps the file in being.
            with tempfile.TemporaryFile(dir=self._directory) as file:
                _take_room(file.fileno(), math.prod(shape))
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
    def most_of_class(self) -> int:
        """Up to how many images a class can have here."""
        if isinstance(self._codec, LimitedCodec):
            return self._codec.most_images(self.image_shape)
        return sys.maxsize

    def all_images(self, labels: np.ndarray) -> np.ndarray:
        """Returns the images of all classes, decoded, uint8 `[n, h, w, c]`.

        Raises:
            UserError: if codes from a file hold other images than the file says.
        """
        images, end = np.empty((len(labels), *self.image_shape), np.uint8), 0
        classes, counts = np.unique(labels, return_counts=True)
        for label, count in zip(classes.tolist(), counts.tolist(), strict=True):
            start, end = end, end + count  # a class at a time: all of them may fill memory once
            images[start:end] = self._decoded(self._codes[label], label, count)
        return images

    def _decoded(self, code: Any, label: int, count: int) -> np.ndarray:
        """Returns the images of a code, as many as there are to be; not every codec told before."""
        images, expected = self._codec.decode(code), (count, *self.image_shape)
        if images.shape != expected:
            raise UserError(
                f"stored exemplars are damaged: those of the label {label} are "
                f"{list(images.shape)}, not {list(expected)}: put the right file back"
            )
        return images

    def images_at(self, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Returns the images at some rows, uint8 `[m, h, w, c]`; no other class is decoded.

        Raises:
            UserError: if codes from a file hold other images than the file says.
        """
        found = np.empty((len(rows), *self.image_shape), np.uint8)
        for label in np.unique(labels[rows]):
            mine = labels[rows] == label
            places = rows[mine] - np.searchsorted(labels, label)
            code, count = self._codes[int(label)], int(np.sum(labels == label))
            if isinstance(self._codec, StreamCodec):
                needed = np.unique(places)
                code, places = chosen(self._codec, code, needed), np.searchsorted(needed, places)
                count = len(needed)
            found[mine] = self._decoded(code, int(label), count)[places]
        return found

    def image_set(self, labels: np.ndarray, rows: np.ndarray | None = None) -> ImageSet:
        """Returns the images, at `rows` or all, for a pipeline.

        These are streams, which it decodes, or pictures, decoded where one of theirs is asked for.
        """
        if not isinstance(self._codec, StreamCodec):
            if rows is None:
                return ArrayImageSet(self.all_images(labels), labels)
            return ArrayImageSet(self.images_at(rows, labels), labels[rows])
        height, width, channels = self.image_shape
        parts = [self._codec.split(code) for code in self._codes.values()]
        counts = [len(streams) for _, streams in parts]
        images = CodedImageSet(
            [stream for _, streams in parts for stream in streams],
            [head for head, _ in parts],
            np.repeat(np.arange(len(parts)), counts),
            labels,
            (height, width, channels),
            self._codec.decode_stream,
        )
        return images if rows is None else images.subset(rows)

    def bytes_by_class(self, labels: np.ndarray) -> np.ndarray:
        """Returns the bytes of each class's code, `[largest label + 1]`."""
        del labels
        sizes = np.zeros(max(self._codes, default=-1) + 1, np.int64)
        for label, code in self._codes.items():
            sizes[label] = self._codec.num_bytes(code)
        return sizes

    def bytes_of(self, images: np.ndarray) -> int:
        """Returns the bytes that images take as a class."""
        return self._codec.num_bytes(self._codec.encode(images))

    def number_within(self, images: np.ndarray, num_bytes: int) -> int:
        """Returns how many images, from the first on, fit into so many bytes as a class."""
        return first_that_fit(self._codec, self._codec.encode(images), num_bytes)

    def rows_within(self, num_bytes: int, labels: np.ndarray) -> np.ndarray:
        """Returns the rows of each class's first images, as many as so many bytes hold."""
        counts = np.zeros(max(self._codes, default=-1) + 1, np.int64)
        for label, code in self._codes.items():
            counts[label] = first_that_fit(self._codec, code, num_bytes)
        return first_rows(labels, counts[labels])

    def extended(self, images: np.ndarray, labels: np.ndarray) -> "CodeStorage":
        """Returns a storage with the code of each new class behind the others."""
        return self._with(encoded(self._codec, images, labels))

    def replaced(self, images: np.ndarray, rows: np.ndarray, labels: np.ndarray) -> "CodeStorage":
        """Returns a storage with other images at some rows.

        These are encoded, and where a class is one picture the others in it are too.
        """
        changed = {}
        for label in np.unique(labels[rows]):
            mine = labels[rows] == label
            places = rows[mine] - np.searchsorted(labels, label)
            code = self._codes[int(label)]
            changed[int(label)] = _replaced(self._codec, code, images[mine], places)
        return self._with(changed)

    def with_those_of(self, other: "CodeStorage", labels: Sequence[int]) -> "CodeStorage":
        """Returns a storage with the codes that another one has of some classes."""
        return self._with({label: other._codes[label] for label in labels})

    def kept(self, rows: np.ndarray, labels: np.ndarray) -> "CodeStorage":
        """Returns a storage of the images at some rows."""
        codes = {}
        for label, code in self._codes.items():
            members = np.flatnonzero(labels == label)
            mine = np.isin(members, rows)
            if mine.all():
                codes[label] = code
            elif mine.any():
                codes[label] = chosen(self._codec, code, np.flatnonzero(mine))
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


def _replaced(codec: Codec, code: Any, images: np.ndarray, places: np.ndarray) -> Any:
    """Returns a class's code with other images at some places."""
    if not isinstance(codec, StreamCodec):
        whole = codec.decode(code).copy()
        whole[places] = images
        return codec.encode(whole)
    head, streams = codec.split(code)
    new_head, new_streams = codec.split(codec.encode(images))
    if new_head != head:
        raise UserError(
            "exemplars of a class can't be stored beside those that it has: the codec writes other "
            "tables than it did then; go on with the version of Pillow (or of your own codec) that "
            "the run began with"
        )
    for place, stream in zip(places, new_streams, strict=True):
        streams[place] = stream
    return codec.join(head, streams)


def first_rows(labels: np.ndarray, counts: np.ndarray | int) -> np.ndarray:
    """Returns the rows of the first exemplars of each class.

    Args:
        labels: `[n]`, ascending.
        counts: how many of the row's class, `[n]` or one number.
    """
    places = np.arange(len(labels)) - np.searchsorted(labels, labels, side="left")
    return np.flatnonzero(places < counts)


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
        images, number = arrays["images"], len(arrays["labels"])
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != number:
            raise ValueError(f"images are {images.shape} of {images.dtype}, for {number} labels")
        return PixelStorage(images, directory)
    classes, counts = np.unique(arrays["labels"], return_counts=True)
    sizes = arrays["code_bytes"]
    codes, shape = arrays["codes"], tuple(int(side) for side in arrays["image_shape"])
    if len(sizes) != len(classes) or sizes.sum() != len(codes) or len(shape) != 3:
        raise ValueError(f"{len(codes)} bytes in {len(sizes)} codes for {len(classes)} classes")
    if np.any(sizes < 1):
        raise ValueError(f"codes of {sizes.tolist()} bytes")
    ends = np.cumsum(sizes)
    parts = zip(classes, ends - sizes, ends, strict=True)
    found = {int(k): codes[a:b].tobytes() for k, a, b in parts}
    for (label, code), count in zip(found.items(), counts.tolist(), strict=True):
        if isinstance(codec, StreamCodec):
            _check_streams(codec, code, label, count, shape)
        elif isinstance(codec, TellingCodec) and codec.shape_of(code) != (count, *shape):
            raise ValueError(
                f"images {list(codec.shape_of(code))} of the label {label}, not {[count, *shape]}"
            )
    return CodeStorage(codec, found, shape)


def _check_streams(
    codec: Any, code: Any, label: int, count: int, image_shape: tuple[int, ...]
) -> None:
    """Refuses a class whose head, or whose number of streams, is wrong: its first image tells.

    Later a graph decodes them, which knows no file to blame.

    Raises:
        ValueError: says what is wrong.
    """
    head, streams = codec.split(code)
    if len(streams) != count:
        raise ValueError(f"{len(streams)} streams of the label {label}, which {count} have")
    try:
        shape = codec.decode(codec.join(head, streams[:1])).shape[1:]
    except UserError as error:
        raise ValueError(f"label {label}: {error}") from error
    if shape != image_shape:
        raise ValueError(f"images {list(shape)} of the label {label}, not {list(image_shape)}")


def _take_room(descriptor: int, num_bytes: int) -> None:
    """Takes room on disk for a file, where that can be done.

    Were the disk full later, writing to the file's mapping would kill the process.
    """
    if not hasattr(os, "posix_fallocate"):  # on macOS
        return
    try:
        os.posix_fallocate(descriptor, 0, num_bytes)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise


def _copy(source: np.ndarray, target: np.ndarray, rows: np.ndarray | None = None) -> None:
    """Copies images, at `rows` or all, a few at a time."""
    for start in range(0, len(target), _COPIED_AT_ONCE):
        part = slice(start, start + _COPIED_AT_ONCE)
        target[part] = source[part] if rows is None else source[rows[part]]
