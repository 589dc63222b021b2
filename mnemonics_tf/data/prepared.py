"""Data that TensorFlow Datasets has prepared: any classification set with `image` and `label`.

Small sets are read into memory. Large ones stay in their TFRecord files: one pass over them notes
where each record lies and which class it has, and from then on images are read by their place. The
notes are kept beside the records, where that folder can be written.
"""

import hashlib
import os
import pathlib
import re
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.encoded import View
from mnemonics_tf.data.source import DataSource, InMemorySource, split_by_class
from mnemonics_tf.data.streamed import Files, Storage, StreamedSource, view_of
from mnemonics_tf.errors import UserError
from mnemonics_tf.progress import LOGGER
from mnemonics_tf.run_directory import read_arrays, write_arrays

#: images of one shape are held in memory up to this many bytes of pixels
_MEMORY_LIMIT = 2**30

#: of a TFRecord: length (8 bytes) and its checksum before the data, a checksum after it
_HEADER, _FOOTER = 12, 4

_INDEX_FILE = "mnemonics_tf_index_{}.npz"


def load_prepared(name: str, data_dir: str, download: bool, image_size: int) -> DataSource:
    """Opens a set that TFDS has prepared below `data_dir`.

    Args:
        name: as TFDS knows it, e.g. `cifar10` or `food101`.
        data_dir: where TFDS keeps its data.
        download: whether TFDS may fetch and prepare it there.
        image_size: height and width that images of different sizes are brought to.

    Raises:
        UserError: if it is not there, or is no set of labelled images.
    """
    root = pathlib.Path(data_dir).expanduser()
    place = find_prepared(root, name)
    if place is None and download:
        place = prepare(name, root)
    if place is None:
        raise UserError(
            f"no data of {name} prepared by TFDS in {str(root)!r} ({name}/VERSION/"
            "dataset_info.json): prepare it there, or pass --download to let TFDS fetch it"
        )
    builder = open_prepared(place)
    test = next((s for s in ("test", "validation") if s in builder.info.splits), None)
    if "train" not in builder.info.splits or test is None:
        raise UserError(
            f"{name} has the splits {', '.join(builder.info.splits)}: expected train, and test or "
            "validation"
        )
    shape = builder.info.features["image"].shape
    total = sum(builder.info.splits[split].num_examples for split in ("train", test))
    if None not in shape and not image_size and total * np.prod(shape) <= _MEMORY_LIMIT:
        return _read_into_memory(name, builder, test)
    names = builder.info.features["label"].names
    view = view_of(image_size or 224, 1 if shape[-1] == 1 else 3)
    return stream_prepared(f"tfds:{name}", builder, names, view, test)


def find_prepared(root: pathlib.Path, name: str) -> pathlib.Path | None:
    """Returns the newest version of a set that TFDS has prepared below `root`.

    Found by its files alone: a TFDS builder asks the network first, which takes minutes offline.
    """
    folder, _, config = name.partition("/")
    versions = {}
    for path in (root / folder).glob(f"{config + '/' if config else ''}*/dataset_info.json"):
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name):
            versions[tuple(map(int, path.parent.name.split(".")))] = path.parent
    return versions[max(versions)] if versions else None


def prepare(name: str, root: pathlib.Path, manual_dir: pathlib.Path | None = None) -> pathlib.Path:
    """Lets TFDS prepare a set below `root`, from archives in `manual_dir` or by download.

    Raises:
        UserError: if it does not succeed.
    """
    import tensorflow_datasets as tfds

    LOGGER.info("preparing %s below %s", name, root)
    config = tfds.download.DownloadConfig(manual_dir=str(manual_dir) if manual_dir else None)
    try:
        tfds.builder(name, data_dir=str(root)).download_and_prepare(download_config=config)
    except tfds.core.registered.DatasetNotFoundError as error:
        raise UserError(f"TFDS knows no data set {name!r}") from error
    except (OSError, AssertionError, tfds.download.DownloadError) as error:
        raise UserError(f"TFDS could not prepare {name} below {str(root)!r}: {error}") from error
    return find_prepared(root, name)


def open_prepared(place: pathlib.Path) -> Any:
    """Returns the TFDS builder of a prepared set.

    Raises:
        UserError: if it can't be opened or is no set of labelled images.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(str(place))
    except (OSError, ValueError, LookupError) as error:
        raise UserError(f"the TFDS data in {str(place)!r} can't be opened: {error}") from error
    features = builder.info.features
    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    wrong = [n for n, k in kinds.items() if n not in features or not isinstance(features[n], k)]
    if wrong:
        raise UserError(
            f"the TFDS data in {str(place)!r} has the features {', '.join(features)}: expected an "
            "image named 'image' and one class a picture named 'label'"
        )
    return builder


def _read_into_memory(name: str, builder: Any, test: str) -> InMemorySource:
    parts = {}
    for split in ("train", test):
        examples = [
            (example["image"], example["label"])
            for example in builder.as_dataset(split=split).as_numpy_iterator()
        ]
        images = np.stack([image for image, _ in examples])
        parts[split] = split_by_class(images, np.array([label for _, label in examples]))
    names = builder.info.features["label"].names
    return in_memory_source(f"tfds:{name}", parts["train"], parts[test], names)


def in_memory_source(
    name: str,
    training: dict[int, np.ndarray],
    test: dict[int, np.ndarray],
    class_names: Sequence[str],
) -> InMemorySource:
    """Returns a source over arrays, with mean and deviation taken from the training images.

    Args:
        name: of the source.
        training: original class id -> uint8 `[n, h, w, c]`.
        test: the same for the test part.
        class_names: by original class id.

    Raises:
        UserError: if a class lacks training or test images.
    """
    for part, images in (("training", training), ("test", test)):
        missing = [n for c, n in enumerate(class_names) if c not in images]
        if missing:
            raise UserError(f"{name} has no {part} images of {', '.join(missing[:5])}")
    source = InMemorySource(training, test, class_names)
    pixels = sum(images[..., 0].size for images in training.values())
    axes = (0, 1, 2)
    totals = sum(images.sum(axes, np.float64) for images in training.values())
    squares = sum(np.square(i, dtype=np.float64).sum(axes) for i in training.values())
    mean = totals / pixels
    std = np.sqrt(np.maximum(squares / pixels - mean**2, 1.0))
    source.name = name
    source.channel_mean = tuple((mean / 255).tolist())
    source.channel_std = tuple((std / 255).tolist())
    # Grey images are mostly written signs, which a mirror changes.
    source.augmentation = "shift" if source.image_shape[-1] == 1 else "crop_mirror"
    return source


# Records, read by their place


class RecordStorage(Storage):
    """Images in TFRecord files; a key is (file, offset, length) of a record.

    Args:
        files: the TFRecord files.
    """

    def __init__(self, files: Sequence[str]):
        self._descriptors = [os.open(file, os.O_RDONLY) for file in files]

    def __del__(self):
        for descriptor in getattr(self, "_descriptors", ()):
            os.close(descriptor)

    def read(self, key: tf.Tensor) -> tf.Tensor:
        def read_record(place):
            file, offset, length = place.tolist()
            return os.pread(self._descriptors[file], length, offset)

        record = tf.numpy_function(read_record, [key], tf.string, stateful=False)
        feature = tf.io.FixedLenFeature([], tf.string)
        return tf.io.parse_single_example(record, {"image": feature})["image"]


def stream_prepared(
    name: str, builder: Any, classes: Sequence[str], view: View, test: str
) -> StreamedSource:
    """Returns a source that reads the records of some classes by their place.

    Args:
        name: of the source.
        builder: of the prepared set.
        classes: their names; their places here become the original class ids.
        view: what becomes of the images.
        test: name of the split that is the test part.

    Raises:
        UserError: if the records are no TFRecords, are damaged, or lack a class.
    """
    if builder.info.file_format.value != "tfrecord":
        raise UserError(
            f"the TFDS data of {name} is stored as {builder.info.file_format.value}: prepare it as "
            "tfrecord"
        )
    known = builder.info.features["label"].names
    unknown = sorted(set(classes) - set(known))
    if unknown:
        raise UserError(f"the TFDS data of {name} has no classes {', '.join(unknown[:5])}")
    parts = []
    for split in ("train", test):
        files = [str(path) for path in builder.info.splits[split].filepaths]
        places, labels = _index(files, split)
        by_class = {
            c: Files.plain(places[labels == known.index(class_name)])
            for c, class_name in enumerate(classes)
        }
        empty = [classes[c] for c, found in by_class.items() if not len(found)]
        if empty:
            raise UserError(f"the split {split} of {name} has no {', '.join(empty[:5])}")
        parts.append((RecordStorage(files), by_class))
    return StreamedSource(name, classes, *parts, view)


def _index(files: Sequence[str], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns places (file, offset, length) int64 `[n, 3]` and labels int64 `[n]` of all records.

    In the order of the files, which is the same everywhere: TFDS shuffles by hashes of names when
    it prepares.
    """
    sizes = np.array([os.path.getsize(file) for file in files])
    digest = hashlib.sha256(",".join([*map(os.path.basename, files), str(sizes)]).encode())
    cache = pathlib.Path(files[0]).with_name(_INDEX_FILE.format(digest.hexdigest()[:16]))
    if cache.exists():
        arrays = read_arrays(cache)
        return arrays["places"], arrays["labels"]
    LOGGER.info("reading the records of %s once, to know their classes", split)
    places, labels = [], []
    for number, file in enumerate(files):
        for offset, record in _records(file):
            places.append((number, offset, len(record)))
            feature = tf.train.Example.FromString(record).features.feature["label"]
            labels.append(feature.int64_list.value[0])
    arrays = {"places": np.array(places, np.int64), "labels": np.array(labels, np.int64)}
    if os.access(cache.parent, os.W_OK):
        write_arrays(cache, arrays)
    return arrays["places"], arrays["labels"]


def _records(file: str):
    """Yields offset and data of every record."""
    with open(file, "rb", buffering=2**22) as stream:
        offset = 0
        while header := stream.read(_HEADER):
            (length,) = struct.unpack("<Q", header[:8].ljust(8, b"\0"))
            data = stream.read(length)
            if len(data) != length or len(stream.read(_FOOTER)) != _FOOTER:
                raise UserError(f"{file} is cut short: prepare the data again")
            yield offset + _HEADER, data
            offset += _HEADER + length + _FOOTER
