"""TFRecord files as TFDS writes them, read by the place of each record.

One pass over the files verifies every record's checksums and notes where it lies and which class it
has. The notes are kept beside the files, where that folder can be written, and in the user's cache
directory otherwise. They hold as long as the files keep their names, sizes and times. A record is
used only if the checksum behind it is still the one that was noted: that tells files that were
written anew, and not a record of which bits have changed since; checksums are not computed again.
"""

import collections
import dataclasses
import hashlib
import os
import pathlib
import struct
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from mnemonics_tf.data import caches
from mnemonics_tf.data.checking import DECODERS, examined, report_broken
from mnemonics_tf.data.decoding import examine, reason
from mnemonics_tf.data.storage import Storage
from mnemonics_tf.errors import UserError, printable
from mnemonics_tf.monitoring.progress import LOGGER, watched

#: of a TFRecord: length (8 bytes) and its checksum before the data, a checksum after it
_HEADER, _FOOTER = 12, 4

_INDEX_FILE = "mnemonics_tf_index_{}.npz"


class RecordStorage(Storage):
    """Images in TFRecord files; a key is (file, offset, length, checksum) of a record, int64.

    Args:
        files: the TFRecord files.
    """

    digest_kind = "records"

    def __init__(self, files: Sequence[str]):
        self._files = tuple(files)

    def read(self, key: tf.Tensor) -> tf.Tensor:
        record = tf.numpy_function(self._record, [key], tf.string, stateful=False)
        feature = tf.io.FixedLenFeature([], tf.string)
        return tf.io.parse_single_example(record, {"image": feature})["image"]

    def fetch(self, key: np.ndarray) -> bytes:
        example = tf.train.Example.FromString(self._record(key))
        return example.features.feature["image"].bytes_list.value[0]

    def describe(self, key: np.ndarray) -> str:
        file, offset, _, _ = key.tolist()
        return f"the record at byte {offset} of {printable(self._files[file])}"

    def digest(self, keys: np.ndarray, sampled: int) -> bytes:
        """Returns a hash of lengths and checksums of all records, in order; none is read.

        Into how many files they were written does not count. The checksums have 32 bits.
        """
        del sampled
        facts = np.ascontiguousarray(keys[:, 2:], "<i8")
        return hashlib.blake2b(facts.data, digest_size=16).digest()

    def _record(self, key: np.ndarray) -> bytes:
        file, offset, length, checksum = key.tolist()
        # Opened for each record: a set may have more files than a process may hold open.
        descriptor = os.open(self._files[file], os.O_RDONLY)
        try:
            found = os.pread(descriptor, length + _FOOTER, offset)
        finally:
            os.close(descriptor)
        if len(found) != length + _FOOTER or _number(found[length:]) != checksum:
            raise ValueError("the file has changed since its records were noted")
        return found[:length]


def _number(four_bytes: bytes) -> int:
    return struct.unpack("<I", four_bytes)[0]


@dataclasses.dataclass
class Records:
    """The records of one split.

    Attributes:
        files: the TFRecord files.
        places: (file, offset, length, checksum) of every record, int64 `[n, 4]`.
        labels: int64 `[n]`.
        decoded: bool `[n]`, whether its image is known to decode.
        cache: where these notes are kept, if they can be.
    """

    files: tuple[str, ...]
    places: np.ndarray
    labels: np.ndarray
    decoded: np.ndarray
    cache: pathlib.Path

    def check_images(self, rows: np.ndarray, channels: int, skip_broken: bool) -> np.ndarray:
        """Decodes the images of some records; returns which of these rows are good.

        Args:
            rows: int `[m]`.
            channels: 3 or 1.
            skip_broken: warn of broken images and leave them out.

        Raises:
            UserError: names the broken ones, unless they may be skipped.
        """
        storage = RecordStorage(self.files)

        def check(row: int) -> bool | str:
            try:
                contents = storage.fetch(self.places[row])
            except (OSError, ValueError) as error:
                return str(error)
            return examine(contents, channels, by_pillow=False)

        place = f"in {printable(os.path.dirname(self.files[0]))}"
        broken, new = [], rows[~self.decoded[rows]]
        for row, verdict in examined(check, new, place, self.keep):
            self.decoded[row] = not isinstance(verdict, str)
            if isinstance(verdict, str):
                broken.append((storage.describe(self.places[row]), verdict))
        if len(new):
            self.keep()
        report_broken(broken, len(rows), "records", place, skip_broken)
        return rows[self.decoded[rows]]

    def keep(self) -> None:
        """Keeps the notes for the next run, where they can be."""
        arrays = {
            "places": self.places,
            "labels": self.labels,
            "decoded": self.decoded,
            "decoders": np.array(DECODERS),
            "files": _facts(self.files),
        }
        if not any(caches.store(path, arrays) for path in _caches(self.files)):
            LOGGER.info("%s can't be written: the records will be read again", self.cache)


def index_records(files: Sequence[str], split: str) -> Records:
    """Returns the records of TFRecord files, in the order of the files.

    That order is the same everywhere: TFDS shuffles by hashes of names when it prepares.

    Args:
        files: of the split.
        split: its name, for the log.

    Raises:
        UserError: if a file is missing or damaged, or a record has no image or no label.
    """
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(files)} files of the split {split} are missing (first: "
            f"{printable(missing[0])}): prepare the data again"
        )
    for path in _caches(files):
        known = _from_cache(path, files)
        if known:
            return known
    LOGGER.info("reading the records of %s once, to verify them and know their classes", split)
    places: list[tuple[int, int, int, int]] = []
    labels = []
    told = f"reading the records of {split}: file"
    for number, file in enumerate(watched(files, len(files), told)):
        before, found = len(places), _records(file)
        for offset, record, checksum in found:
            places.append((number, offset, len(record), checksum))
            try:
                labels.append(_label_of(record, f"{printable(file)}, record at byte {offset}"))
            except UserError:
                collections.deque(found, maxlen=0)  # to the end: are all lengths sound?
                _verify(file)  # rather say that it is damaged, if it is
                raise
        if _verify(file) != len(places) - before:
            raise UserError(f"{printable(file)} changes while it is read: start the command again")
    records = Records(
        tuple(files),
        np.array(places, np.int64).reshape(-1, 4),
        np.array(labels, np.int64),
        np.zeros(len(labels), bool),
        _caches(files)[0],
    )
    records.keep()
    return records


def _caches(files: Sequence[str]) -> tuple[pathlib.Path, pathlib.Path | None]:
    """Returns where notes may lie: beside the files, and in the user's cache directory."""
    names = ",".join(map(os.path.basename, files))
    place = os.path.realpath(os.path.dirname(files[0]))
    beside, apart = (
        hashlib.sha256(os.fsencode(text)).hexdigest()[:16] for text in (names, f"{place},{names}")
    )
    return (
        pathlib.Path(files[0]).with_name(_INDEX_FILE.format(beside)),
        caches.in_user_cache(_INDEX_FILE.format(apart)),
    )


def _facts(files: Sequence[str]) -> np.ndarray:
    """Returns what tells that files are as they were, int64 `[files, 3]`."""
    found = map(os.stat, files)
    return np.array([(f.st_size, f.st_mtime_ns, f.st_ctime_ns) for f in found], np.int64)


def _from_cache(path: pathlib.Path | None, files: Sequence[str]) -> Records | None:
    found = caches.load(path)
    if path is None or not {"places", "labels", "decoded", "decoders", "files"} <= set(found):
        return None
    places, labels, decoded = found["places"], found["labels"], found["decoded"]
    fits = (
        np.array_equal(found["files"], _facts(files))
        and (places.dtype, labels.dtype, decoded.dtype) == (np.int64, np.int64, np.bool_)
        and places.shape == (len(labels), 4)
        and labels.shape == decoded.shape == (len(labels),)
        and bool(np.all((places[:, 0] >= 0) & (places[:, 0] < len(files))))
    )
    if not fits:
        return None
    if str(found["decoders"]) != DECODERS:
        decoded = np.zeros_like(decoded)
    return Records(tuple(files), places, labels, decoded, path)


def _records(file: str) -> Iterator[tuple[int, bytes, int]]:
    """Yields offset, data and checksum of every record; a length is believed if the file has it."""
    size, offset = os.path.getsize(file), 0
    with open(file, "rb", buffering=2**22) as stream:
        while header := stream.read(_HEADER):
            left = size - offset - _HEADER - _FOOTER
            length = struct.unpack("<Q", header[:8])[0] if len(header) == _HEADER else 0
            if left < 0 or length > left:
                raise UserError(
                    f"{printable(file)} is damaged or cut short: at byte {offset} a record of "
                    f"{length} bytes begins, but {max(left, 0)} are left: prepare the data again"
                )
            data, checksum = stream.read(length), stream.read(_FOOTER)
            yield offset + _HEADER, data, _number(checksum)
            offset += _HEADER + length + _FOOTER


def _verify(file: str) -> int:
    """Has TensorFlow compare all checksums; returns how many records there are.

    Lengths must be known to be sound: TensorFlow asks for as much memory as they say.
    """
    try:
        with tf.device("/CPU:0"):
            return int(tf.data.TFRecordDataset(file).reduce(np.int64(0), lambda n, _: n + 1))
    except tf.errors.OpError as error:
        raise UserError(
            f"{printable(file)} is damaged: {reason(error)}; prepare the data again"
        ) from error


def _label_of(record: bytes, place: str) -> int:
    try:
        features = tf.train.Example.FromString(record).features.feature
    except DecodeError as error:
        raise UserError(
            f"{place}, is no tf.train.Example ({error}): prepare the data again"
        ) from error
    labels = features["label"].int64_list.value
    images = features["image"].bytes_list.value
    if len(labels) != 1 or len(images) != 1:
        raise UserError(
            f"{place}, holds {len(images)} images and {len(labels)} labels: expected one 'image' "
            "(bytes) and one 'label' (a whole number); prepare the data again"
        )
    return labels[0]
