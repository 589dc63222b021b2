"""Data that TensorFlow Datasets has prepared: any classification set with `image` and `label`.

Small sets are read into memory. Large ones stay in their TFRecord files, and their images are read
by their place.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.decoding import reason
from mnemonics_tf.data.encoded import View
from mnemonics_tf.data.measured import in_memory_source
from mnemonics_tf.data.records import Records, RecordStorage, index_records
from mnemonics_tf.data.source import (
    DataSource,
    InMemorySource,
    check_class_names,
    split_by_class,
)
from mnemonics_tf.data.streamed import Files, StreamedSource, view_of
from mnemonics_tf.data.tfds_folder import (
    check_name,
    find_prepared,
    open_prepared,
    prepare,
    what_was_looked_for,
)
from mnemonics_tf.errors import UserError, counted, printable
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.paths import user_path

#: images of one shape are held in memory up to this many bytes of pixels
_MEMORY_LIMIT = 2**30

#: what may be the test part, in the order of preference
_TEST_SPLITS = ("test", "validation")

#: formats of files that are read into memory; by their place only TFRecords are
_READ_INTO_MEMORY = ("tfrecord", "array_record")

_Split = TypeVar("_Split")


def load_prepared(
    name: str, data_dir: str, download: bool, image_size: int, skip_broken: bool = False
) -> DataSource:
    """Opens a set that TFDS has prepared below `data_dir`.

    Args:
        name: as TFDS knows it, e.g. `cifar10`, `food101` or, with a version, `mnist:3.0.1`.
        data_dir: where TFDS keeps its data.
        download: whether TFDS may fetch and prepare it there.
        image_size: height and width that images of different sizes are brought to.
        skip_broken: leave broken images out, instead of stopping.

    Raises:
        UserError: if the name is none, or the set is not there or is none of labelled images.
    """
    check_name(name)
    root = user_path(data_dir)
    place = find_prepared(root, name)
    if place is None and download:
        place = prepare(name, root)
    if place is None:
        raise UserError(what_was_looked_for(root, name))
    builder = open_prepared(place)
    splits = builder.info.splits
    candidates = [split for split in _TEST_SPLITS if split in splits]
    if "train" not in splits or not candidates:
        raise UserError(
            f"{name} has the splits {', '.join(splits)}: expected train, and test or validation"
        )
    shape = builder.info.features["image"].shape
    _check_pixels(name, builder, image_size)
    total = sum(splits[split].num_examples for split in ("train", candidates[0]))
    fits = None not in shape and not image_size and total * np.prod(shape) <= _MEMORY_LIMIT
    if fits and builder.info.file_format.value in _READ_INTO_MEMORY:
        try:
            return _read_into_memory(name, builder, candidates)
        except (tf.errors.OpError, ValueError) as error:  # ValueError: no text in what TFDS says
            if not skip_broken:
                _name_broken(builder, ("train", *candidates[:1]), shape[-1])
                what = reason(error) if isinstance(error, tf.errors.OpError) else error
                raise UserError(
                    f"the TFDS data in {place} can't be read ({what}): prepare it again"
                ) from error
            # From its records, those that are broken can be left out.
    view = _view_of(shape, image_size)
    classes = dict(enumerate(builder.info.features["label"].names))
    return stream_prepared(f"tfds:{name}", builder, classes, view, candidates, skip_broken)


def _view_of(shape: Sequence[int | None], image_size: int) -> View:
    channels = 1 if shape[-1] == 1 else 3
    sides = [side for side in shape[:2] if side is not None]
    if len(sides) == 2 and not image_size:
        # Images of one size keep it, as they do in memory; of a rectangle it is the middle.
        return View(min(sides), 1.0, channels)
    return view_of(image_size or 224, channels)


def _check_pixels(name: str, builder: Any, image_size: int) -> None:
    """Refuses pixels that are no bytes, unless they are read as such."""
    dtype = np.dtype(builder.info.features["image"].np_dtype)
    if dtype == np.uint16 and not image_size:
        height = builder.info.features["image"].shape[0]
        raise UserError(
            f"the images of {name} have 16 bits: pass --image_size (e.g. {height or 224}), with "
            "which they are read as 8 bits, the upper ones"
        )
    if dtype not in (np.uint8, np.uint16):
        raise UserError(f"the images of {name} are {dtype}: expected 8 (or 16) bits, uint8")


def _read_into_memory(name: str, builder: Any, candidates: Sequence[str]) -> InMemorySource:
    def read(split: str) -> tuple[list[tuple[np.ndarray, int]], np.ndarray]:
        examples = _examples(name, builder, split)
        return examples, np.array([label for _, label in examples], np.int64)

    training = read("train")
    test_split, test_examples, test_labels = labelled_split(name, candidates, read)
    test = test_examples, test_labels
    names = builder.info.features["label"].names
    parts = []
    for split, (examples, labels) in (("train", training), (test_split, test)):
        _check_labels(name, split, labels, names)
        labelled = np.flatnonzero(labels >= 0)
        if not len(labelled):
            raise UserError(f"the split {split} of {name} has no labels")
        images = np.stack([examples[row][0] for row in labelled])
        parts.append(split_by_class(images, labels[labelled]))
    classes = _with_images(name, dict(enumerate(names)), [set(part) for part in parts])
    source = in_memory_source(f"tfds:{name}", parts[0], parts[1], classes)
    source.origin = _origin(builder, test_split)
    return source


def _examples(name: str, builder: Any, split: str) -> list[tuple[np.ndarray, int]]:
    """Returns image and label of every example, in the order in which they are stored."""
    if builder.info.file_format.value != "array_record":
        examples = builder.as_dataset(split=split).as_numpy_iterator()
        return [(example["image"], int(example["label"])) for example in examples]
    try:
        examples = builder.as_data_source(split)
        return [(example["image"], int(example["label"])) for example in examples]
    except Exception as error:  # noqa: BLE001, decoders raise anything at damaged records
        raise UserError(
            f"the split {split} of {name}, stored as array_record, can't be read "
            f"({type(error).__name__}: {error}): prepare it again, or as tfrecord"
        ) from error


def _name_broken(builder: Any, splits: Sequence[str], channels: int) -> None:
    """Raises UserError if a record is damaged or its image can't be decoded."""
    if builder.info.file_format.value != "tfrecord":
        return
    for split in splits:
        records = _index(builder, split)
        rows = np.arange(len(records.labels))
        records.check_images(rows, 1 if channels == 1 else 3, skip_broken=False)


def labelled_split(
    name: str, candidates: Sequence[str], read: Callable[[str], tuple[_Split, np.ndarray]]
) -> tuple[str, _Split, np.ndarray]:
    """Returns the first split that has labels: its name, and what `read` made of it.

    Args:
        name: of the set, for messages.
        candidates: names of splits.
        read: takes a name, returns anything and the labels, int `[n]`; TFDS notes -1 for none.

    Raises:
        UserError: if no split has labels.
    """
    for split in candidates:
        found, labels = read(split)
        if np.any(labels >= 0):
            return split, found, labels
        LOGGER.warning("the split %s of %s has no labels: it can't be the test part", split, name)
    raise UserError(
        f"{name} has no labels in the splits that could be the test part ({', '.join(candidates)})"
    )


def _check_labels(name: str, split: str, labels: np.ndarray, names: Sequence[str]) -> None:
    """Refuses labels of no class; tells of examples without a label, which are left out."""
    beyond = labels[labels >= len(names)]
    if len(beyond):
        raise UserError(
            f"the split {split} of {name} has the label {beyond[0]}, but only {len(names)} classes "
            "are declared: prepare the data again"
        )
    without = int(np.sum(labels < 0))
    if without:
        told = counted(without, "example")
        LOGGER.warning("left out, for they have no label: %s of %s/%s", told, name, split)


def _with_images(
    name: str, classes: Mapping[int, str], present: Sequence[set[int]]
) -> dict[int, str]:
    """Returns the classes that have images; the others are declared only, and left out."""
    kept = {c: class_name for c, class_name in classes.items() if any(c in p for p in present)}
    absent = [class_name for c, class_name in classes.items() if c not in kept]
    if absent:
        LOGGER.warning(
            "%d of the %d classes that %s declares have no images and are left out (first: %s)",
            len(absent),
            len(classes),
            name,
            ", ".join(absent[:5]),
        )
    if not kept:
        raise UserError(f"{name} has no images of any class")
    check_class_names(list(kept.values()), name, "mend the label names of the prepared data")
    return kept


def _origin(builder: Any, test: str) -> str:
    unread = sorted(set(builder.info.splits) - {"train", test})
    beside = f"; not read: {', '.join(unread)}" if unread else ""
    return f"the splits train and {test} of {builder.data_path}{beside}"


def _index(builder: Any, split: str) -> Records:
    """Returns the records of a split.

    Raises:
        UserError: if a file is missing, damaged, or holds more or fewer than it was prepared with.
    """
    info = builder.info.splits[split]
    records = index_records([str(path) for path in info.filepaths], split)
    found = np.bincount(records.places[:, 0], minlength=len(records.files))
    for file, count, expected in zip(records.files, found, info.shard_lengths, strict=True):
        if count != expected:
            raise UserError(
                f"{printable(file)} holds {count} records, and dataset_info.json says {expected}: "
                "the file was cut or replaced; prepare the data again"
            )
    return records


def stream_prepared(
    name: str,
    builder: Any,
    classes: Mapping[int, str],
    view: View,
    candidates: Sequence[str],
    skip_broken: bool,
    need_all: bool = False,
) -> StreamedSource:
    """Returns a source that reads the records of some classes by their place.

    Args:
        name: of the source.
        builder: of the prepared set.
        classes: original class id -> name.
        view: what becomes of the images.
        candidates: names of the splits that may be the test part; the first with labels is.
        skip_broken: leave broken images out, instead of stopping.
        need_all: whether every class must have images; otherwise those without any are left out.

    Raises:
        UserError: if the records are no TFRecords, are damaged, or lack a class.
    """
    if builder.info.file_format.value != "tfrecord":
        raise UserError(
            f"the TFDS data of {name} is stored as {builder.info.file_format.value}: prepare it as "
            "tfrecord"
        )
    known = builder.info.features["label"].names
    unknown = sorted(set(classes.values()) - set(known))
    if unknown:
        raise UserError(f"the TFDS data of {name} has no classes {', '.join(unknown[:5])}")

    def read(split: str) -> tuple[Records, np.ndarray]:
        records = _index(builder, split)
        return records, records.labels

    training, _ = read("train")
    test_split, test, _ = labelled_split(name, candidates, read)
    place = {class_name: label for label, class_name in enumerate(known)}
    by_class = []
    for split, records in (("train", training), (test_split, test)):
        _check_labels(name, split, records.labels, known)
        wanted = np.isin(records.labels, [place[class_name] for class_name in classes.values()])
        good = records.check_images(np.flatnonzero(wanted), view.channels, skip_broken)
        rows = {c: good[records.labels[good] == place[n]] for c, n in classes.items()}
        by_class.append({c: found for c, found in rows.items() if len(found)})
    kept = classes
    if not need_all:
        kept = _with_images(name, classes, [set(part) for part in by_class])
    parts = []
    for split, records, rows in zip(("train", test_split), (training, test), by_class, strict=True):
        empty = [class_name for c, class_name in kept.items() if c not in rows]
        if empty:
            raise UserError(f"the split {split} of {name} has no images of {', '.join(empty[:5])}")
        files = {c: Files.plain(records.places[rows[c]]) for c in kept}
        parts.append((RecordStorage(records.files), files))
    source = StreamedSource(name, [kept[c] for c in sorted(kept)], parts[0], parts[1], view)
    source.origin = _origin(builder, test_split)
    return source
