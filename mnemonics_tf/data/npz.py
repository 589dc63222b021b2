"""A data set in one .npz file: x_train, y_train, x_test and y_test."""

import pathlib

import numpy as np

from mnemonics_tf.data.prepared import in_memory_source
from mnemonics_tf.data.source import InMemorySource, split_by_class
from mnemonics_tf.errors import UserError
from mnemonics_tf.run_directory import read_arrays

_NAMES = ("x_train", "y_train", "x_test", "y_test")


def load_npz(data_dir: str) -> InMemorySource:
    """Reads a data set from an .npz file into memory; never unpickles.

    Args:
        data_dir: the file. Images are uint8 `[n, h, w]` or `[n, h, w, c]` with c 1 or 3, labels
            whole numbers `[n]` or `[n, 1]`; classes are the labels that occur, ascending.

    Raises:
        UserError: if the file is missing, damaged, holds Python objects, or is not of this form.
    """
    path = pathlib.Path(data_dir).expanduser()
    arrays = read_arrays(path)
    missing = [name for name in _NAMES if name not in arrays]
    if missing:
        raise UserError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; expected {', '.join(_NAMES)}"
        )
    images = {part: _checked_images(path, arrays, part) for part in ("train", "test")}
    labels = {part: _checked_labels(path, arrays, part) for part in ("train", "test")}
    if images["train"].shape[1:] != images["test"].shape[1:]:
        raise UserError(
            f"{path}: training images of shape {images['train'].shape[1:]}, test images of shape "
            f"{images['test'].shape[1:]}; expected the same"
        )
    classes = np.unique(labels["train"])
    unknown = np.setdiff1d(labels["test"], classes)
    if len(unknown) or len(classes) < 2:
        raise UserError(
            f"{path}: y_train holds {len(classes)} classes, y_test {len(unknown)} that are not "
            "among them; expected the same classes in both, two at least"
        )
    parts = [
        split_by_class(images[part], np.searchsorted(classes, labels[part]))
        for part in ("train", "test")
    ]
    return in_memory_source("npz", *parts, [str(c) for c in classes])


def _checked_images(path: pathlib.Path, arrays: dict[str, np.ndarray], part: str) -> np.ndarray:
    images = arrays[f"x_{part}"]
    found = f"{path}: x_{part} is {images.dtype} {images.shape}"
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise UserError(f"{found}; expected uint8 [n, height, width] or [n, height, width, 1 or 3]")
    return images


def _checked_labels(path: pathlib.Path, arrays: dict[str, np.ndarray], part: str) -> np.ndarray:
    labels, count = arrays[f"y_{part}"], len(arrays[f"x_{part}"])
    if labels.dtype.kind not in "iu" or labels.shape not in ((count,), (count, 1)) or not count:
        raise UserError(
            f"{path}: y_{part} is {labels.dtype} {labels.shape} beside {count} images; expected "
            "one whole number for each image"
        )
    return labels.reshape(-1)
