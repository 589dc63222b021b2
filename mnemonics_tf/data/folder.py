"""Folders of images: class/name.jpg, with or without a split into training and test part.

Every file is decoded once before anything trains, so that a broken one is not met hours later.
"""

import concurrent.futures
import dataclasses
import os
import pathlib
import time
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from mnemonics_tf.data.encoded import check_size, needs_pillow
from mnemonics_tf.data.streamed import Files, FileStorage, StreamedSource, view_of
from mnemonics_tf.errors import UserError
from mnemonics_tf.progress import LOGGER
from mnemonics_tf.randomness import numpy_generator

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
_TRAINING_FOLDERS = ("train", "training")
_TEST_FOLDERS = ("val", "test", "valid", "validation")

#: how many broken files a message names
_NAMED = 10


@dataclasses.dataclass(frozen=True)
class FolderOptions:
    """How to read a folder of images.

    Attributes:
        image_size: height and width that images are brought to.
        skip_broken: leave broken files out, instead of stopping.
        test_share: share of each class's images that become the test part, where the folder has
            no split of its own.
        split_seed: decides which ones.
    """

    image_size: int
    skip_broken: bool
    test_share: float
    split_seed: int


def load_folder(data_dir: str, options: FolderOptions) -> StreamedSource:
    """Lists and checks the images below a folder.

    Args:
        data_dir: holds `class/name.jpg`, or `train/class/name.jpg` and the same below `val`
            or `test`.
        options: how to read it.

    Raises:
        UserError: if there are no images, fewer than two classes, a class without training or
            test images, or a broken file.
    """
    root = pathlib.Path(data_dir).expanduser()
    if not data_dir or not root.is_dir():
        raise UserError(
            f"--data_dir={data_dir} is no folder: pass one that holds a folder of images for "
            f"every class, named by the class ({', '.join(SUFFIXES)})"
        )
    parts = find_split(root)
    names = class_folders(parts[0] if parts else root)
    files = check_files(root, _list_all(root, parts, names), options.skip_broken)
    if parts:
        training = _by_class(files, names, f"{parts[0].name}/")
        test = _by_class(files, names, f"{parts[1].name}/")
    else:
        training, test = _split(_by_class(files, names, ""), names, options)
    for name, where in (("training", training), ("test", test)):
        empty = [names[c] for c in range(len(names)) if not len(where[c])]
        if empty:
            raise UserError(
                f"{len(empty)} classes below {root} have no {name} images (first: "
                f"{', '.join(empty[:5])}): add some or remove their folders"
            )
    storage = FileStorage(str(root))
    return StreamedSource(
        "folder", names, (storage, training), (storage, test), view_of(options.image_size)
    )


def find_split(root: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path] | None:
    """Returns the folders of training and test images, or None if the folder is not split."""
    found = [
        next((root / name for name in names if (root / name).is_dir()), None)
        for names in (_TRAINING_FOLDERS, _TEST_FOLDERS)
    ]
    return (found[0], found[1]) if all(found) else None


def class_folders(folder: pathlib.Path) -> list[str]:
    """Returns the sorted names of the folders in a folder.

    Raises:
        UserError: if there are fewer than two.
    """
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    if len(names) < 2:
        raise UserError(
            f"{folder} holds {len(names)} folders: expected one for every class, two at least"
        )
    return names


def image_names(folder: pathlib.Path) -> list[str]:
    """Returns the sorted names of the image files in a folder; none if there is no such folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(
            e.name
            for e in entries
            if e.name.lower().endswith(SUFFIXES) and not e.name.startswith(".") and e.is_file()
        )


def _list_all(
    root: pathlib.Path, parts: tuple[pathlib.Path, pathlib.Path] | None, names: Sequence[str]
) -> list[str]:
    if parts:
        extra = sorted(set(class_folders(parts[1])) - set(names))
        if extra:
            raise UserError(
                f"{parts[1]} has classes that {parts[0]} has not: {', '.join(extra[:5])}; "
                "both must hold the same ones"
            )
    folders = [f"{part.name}/{name}" for part in parts or () for name in names] or names
    paths = [f"{folder}/{name}" for folder in folders for name in image_names(root / folder)]
    if not paths:
        raise UserError(f"no images ({', '.join(SUFFIXES)}) in the class folders below {root}")
    return paths


def check_files(root: pathlib.Path, paths: Sequence[str], skip_broken: bool) -> dict[str, bool]:
    """Decodes every file; returns, for the good ones, whether Pillow must decode them.

    Args:
        root: what paths begin from.
        paths: of the files.
        skip_broken: warn of broken files and leave them out.

    Raises:
        UserError: names the broken files, unless they may be skipped.
    """
    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        verdicts = list(pool.map(lambda path: check_file(root / path), paths, chunksize=64))
    LOGGER.info(
        "checked %d images below %s in %.0f s", len(paths), root, time.monotonic() - started
    )
    broken = [(p, v) for p, v in zip(paths, verdicts, strict=True) if isinstance(v, str)]
    if broken:
        listed = "".join(f"\n  {path}: {verdict}" for path, verdict in broken[:_NAMED])
        more = f"\n  and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
        message = f"{len(broken)} of {len(paths)} files below {root} can't be used:{listed}{more}"
        if not skip_broken:
            raise UserError(f"{message}\nmend or remove them, or pass --skip_broken")
        LOGGER.warning("%s\nthey are left out", message)
    return {p: v for p, v in zip(paths, verdicts, strict=True) if not isinstance(v, str)}


def check_file(path: pathlib.Path) -> bool | str:
    """Decodes a file; returns whether Pillow must decode it, or what is wrong with it."""
    try:
        with Image.open(path) as image:
            check_size(image)
            by_pillow = needs_pillow(image)
            image.load()
            return by_pillow
    except Image.UnidentifiedImageError:
        return "no image that can be recognised"
    except Exception as error:  # noqa: BLE001, decoders raise anything on hostile bytes
        return f"{error}" or type(error).__name__


def _by_class(files: Mapping[str, bool], names: Sequence[str], part: str) -> dict[int, Files]:
    """Returns the files of each class by its position in `names`."""
    grouped: dict[str, list[str]] = {part + name: [] for name in names}
    for path in files:
        folder = path.rpartition("/")[0]
        if folder in grouped:
            grouped[folder].append(path)
    return {
        c: Files(
            np.array([os.fsencode(path) for path in grouped[part + name]], np.bytes_),
            np.array([files[path] for path in grouped[part + name]], bool),
        )
        for c, name in enumerate(names)
    }


def _split(
    files: Mapping[int, Files], names: Sequence[str], options: FolderOptions
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
