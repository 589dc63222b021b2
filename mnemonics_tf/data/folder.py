"""Folders of images: class/name.jpg, with or without a split into training and test part."""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from mnemonics_tf.data.checking import check_files
from mnemonics_tf.data.layout import SUFFIXES, Layout, find_layout
from mnemonics_tf.data.storage import FileStorage
from mnemonics_tf.data.streamed import Files, StreamedSource, view_of
from mnemonics_tf.errors import UserError, counted, printable
from mnemonics_tf.paths import user_path
from mnemonics_tf.randomness import numpy_generator
from mnemonics_tf.settings import DataSettings

#: height and width that images are brought to where nobody asks for another
SIZE = 224


def load_folder(data_dir: str, options: DataSettings) -> StreamedSource:
    """Lists and checks the images below a folder.

    Args:
        data_dir: holds `class/name.jpg`, or `train/class/name.jpg` and the same below `val`
            or `test`, or Tiny-ImageNet as it comes.
        options: how to read it.

    Raises:
        UserError: if there are no images, a class without training or test images, or a broken
            file.
    """
    root = user_path(data_dir)
    if not data_dir or not root.is_dir():
        raise UserError(
            f"--data_dir={data_dir} is no folder: pass one that holds a folder of images for "
            f"every class, named by the class ({', '.join(SUFFIXES)})"
        )
    layout = find_layout(root)
    names = list(layout.training)
    paths = _all_paths(root, layout)
    layout.left_out.warn(root)
    files = check_files(root, paths, options.skip_broken)
    training = _by_class(files, layout.training)
    if layout.test is None:
        training, test = _split(training, names, options)
        origin = (
            f"{layout.origin}, of which {options.test_share:.0%} a class are the test part "
            f"(--test_share, --split_seed={options.split_seed})"
        )
    else:
        test, origin = _by_class(files, layout.test), layout.origin
    for name, where in (("training", training), ("test", test)):
        empty = [names[c] for c in range(len(names)) if not len(where[c])]
        if empty:
            raise UserError(
                f"no {name} images of {counted(len(empty), 'class')} below {printable(root)} "
                f"(first: {', '.join(empty[:5])}): add some, or move what is no class elsewhere"
            )
    storage = FileStorage(root)
    source = StreamedSource(
        "folder",
        names,
        (storage, training),
        (storage, test),
        view_of(options.image_size or SIZE),
    )
    source.origin = origin
    return source


def _all_paths(root: pathlib.Path, layout: Layout) -> list[str]:
    parts = (layout.training, layout.test or {})
    paths = [path for part in parts for class_paths in part.values() for path in class_paths]
    if not paths:
        beside = f"; not read: {layout.left_out}" if str(layout.left_out) else ""
        raise UserError(
            f"no images ({', '.join(SUFFIXES)}) in the class folders below {printable(root)}"
            f"{beside}"
        )
    return paths


def _by_class(files: Mapping[str, bool], paths: Mapping[str, list[str]]) -> dict[int, Files]:
    """Returns the good files of each class by its place among the names."""
    grouped = {}
    for c, class_paths in enumerate(paths.values()):
        good = [path for path in class_paths if path in files]
        grouped[c] = Files(
            np.array([os.fsencode(path) for path in good], np.bytes_),
            np.array([files[path] for path in good], bool),
        )
    return grouped


def _split(
    files: Mapping[int, Files], names: Sequence[str], options: DataSettings
) -> tuple[dict[int, Files], dict[int, Files]]:
    """Splits every class by itself; a class's split depends on its own name and files only."""
    training, test = {}, {}
    for c, name in enumerate(names):
        count = len(files[c])
        order = numpy_generator(options.split_seed, "split", name).permutation(count)
        num_test = min(max(1, round(options.test_share * count)), count - 1) if count else 0
        rows = {"test": np.sort(order[:num_test]), "training": np.sort(order[num_test:])}
        test[c], training[c] = (
            Files(files[c].keys[rows[part]], files[c].by_pillow[rows[part]])
            for part in ("test", "training")
        )
    return training, test
