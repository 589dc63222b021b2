"""A data set in one .npz file: x_train, y_train, x_test and y_test."""

import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np

from mnemonics_tf.data.measured import in_memory_source
from mnemonics_tf.data.source import InMemorySource, check_class_names, split_by_class
from mnemonics_tf.errors import UserError, counted, printable
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.paths import user_path
from mnemonics_tf.run.files import read_arrays

_NAMES = ("x_train", "y_train", "x_test", "y_test")
_CLASS_NAMES = "class_names"

#: what unpacks to more, and to more than so many times its size, is no data set of photographs
_MAX_UNPACKED_BYTES, _MAX_RATIO = 2**30, 200

#: labels are kept in 32 bits
_LABELS = np.iinfo(np.int32)


def load_npz(data_dir: str) -> InMemorySource:
    """Reads a data set from an .npz file into memory; never unpickles.

    Args:
        data_dir: the file. Images are uint8 `[n, h, w]` or `[n, h, w, c]` with c 1 or 3, labels
            whole numbers `[n]` or `[n, 1]`; classes are the labels that occur, ascending, and
            labels are their original ids. An array `class_names` may name them.

    Raises:
        UserError: if the file is missing, damaged, holds Python objects, or is not of this form.
    """
    path = user_path(data_dir)
    arrays = _read(path)
    images = {part: _checked_images(path, arrays, part) for part in ("train", "test")}
    labels = {part: _checked_labels(path, arrays, part) for part in ("train", "test")}
    if images["train"].shape[1:] != images["test"].shape[1:]:
        raise UserError(
            f"{path}: training images of shape {images['train'].shape[1:]}, test images of shape "
            f"{images['test'].shape[1:]}; expected the same"
        )
    classes = np.unique(labels["train"])
    unknown = np.setdiff1d(labels["test"], classes)
    if len(unknown):
        raise UserError(
            f"{path}: y_train holds {counted(len(classes), 'class')}, y_test {len(unknown)} "
            "that are not among them; expected the same classes in both"
        )
    names = _class_names(path, classes, arrays.get(_CLASS_NAMES))
    training, test = (split_by_class(images[part], labels[part]) for part in ("train", "test"))
    source = in_memory_source("npz", training, test, names)
    source.origin = str(path)
    return source


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays that make a data set; of others it tells."""
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "is missing or no file"
        raise UserError(f"--data_dir={path} {found}: pass an .npz file of arrays")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged or no .npz file ({error})") from error
    size = path.stat().st_size
    unpacked = sum(member.file_size for member in members)
    if unpacked > max(_MAX_UNPACKED_BYTES, _MAX_RATIO * size):
        raise UserError(
            f"{path} has {size} bytes and would unpack to {unpacked}, more than {_MAX_RATIO} times "
            "as many, which looks like an attack; if it is none, save it with np.savez instead of "
            "np.savez_compressed"
        )
    names = [member.filename.removesuffix(".npy") for member in members]
    wanted = [name for name in (*_NAMES, _CLASS_NAMES) if name in names]
    missing = [name for name in _NAMES if name not in names]
    if missing:
        raise UserError(
            f"{path} holds {', '.join(map(printable, names[:10])) or 'nothing'}; expected "
            f"{', '.join(_NAMES)}"
        )
    unread = [printable(name) for name in names if name not in wanted]
    if unread:
        LOGGER.warning("not read in %s: %s", path, ", ".join(unread[:10]))
    if all(member.compress_type == zipfile.ZIP_STORED for member in members):
        return read_arrays(path, wanted)  # which leaves large arrays on disk
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in wanted}
    except Exception as error:  # noqa: BLE001, zipfile and NumPy raise nearly anything at damage
        raise UserError(f"{path} is damaged or no array file ({error})") from error


def _class_names(
    path: pathlib.Path, classes: np.ndarray, given: np.ndarray | None
) -> Mapping[int, str]:
    """Returns the name of every class: the file's own, or else the label itself."""
    if given is None:
        return {int(c): str(c) for c in classes}
    if given.dtype.kind not in "US" or given.ndim != 1:
        raise UserError(
            f"{path}: {_CLASS_NAMES} is {given.dtype} {given.shape}; expected texts, "
            "np.array(['cat', 'dog'])"
        )
    try:
        texts = [text.decode() if isinstance(text, bytes) else str(text) for text in given.tolist()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {_CLASS_NAMES} is not UTF-8 ({error})") from error
    if len(texts) == len(classes):
        names = dict(zip(classes.tolist(), texts, strict=True))
    elif classes[0] >= 0 and classes[-1] < len(texts):
        names = {c: texts[c] for c in classes.tolist()}  # some have no image
    else:
        raise UserError(
            f"{path}: {_CLASS_NAMES} has {len(texts)} names for {len(classes)} classes with the "
            f"labels {classes[0]} to {classes[-1]}; expected one for each class, ascending, or one "
            "for each number from 0 up"
        )
    check_class_names(list(names.values()), str(path), f"mend the array {_CLASS_NAMES}")
    return names


def _checked_images(path: pathlib.Path, arrays: dict[str, np.ndarray], part: str) -> np.ndarray:
    images = arrays[f"x_{part}"]
    found = f"{path}: x_{part} is {images.dtype} {images.shape}"
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise UserError(f"{found}; expected uint8 [n, height, width] or [n, height, width, 1 or 3]")
    if 0 in images.shape:
        raise UserError(f"{found}: there are no pixels in it")
    return images


def _checked_labels(path: pathlib.Path, arrays: dict[str, np.ndarray], part: str) -> np.ndarray:
    labels, count = arrays[f"y_{part}"], len(arrays[f"x_{part}"])
    if labels.dtype.kind not in "iu" or labels.shape not in ((count,), (count, 1)) or not count:
        raise UserError(
            f"{path}: y_{part} is {labels.dtype} {labels.shape} beside {count} images; expected "
            "one whole number for each image"
        )
    if labels.min() < _LABELS.min or labels.max() > _LABELS.max:
        raise UserError(
            f"{path}: y_{part} goes from {labels.min()} to {labels.max()}; expected numbers of 32 "
            f"bits, {_LABELS.min} to {_LABELS.max}"
        )
    return labels.reshape(-1).astype(np.int32)
