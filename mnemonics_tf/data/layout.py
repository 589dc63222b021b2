"""Which files below a folder are the images of which class, and what is left out.

Images lie in `class/name.jpg`, or the same below a training and a test folder; or as Tiny-ImageNet
has them: `train/class/images/name.JPEG`, and `val/images/` with a list of the classes.
"""

import collections
import contextlib
import dataclasses
import errno
import os
import pathlib
from collections.abc import Iterator

from mnemonics_tf.data.source import check_class_names
from mnemonics_tf.errors import UserError, printable
from mnemonics_tf.monitoring.progress import LOGGER

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
TRAINING_FOLDERS = ("train", "training")
TEST_FOLDERS = ("val", "test", "valid", "validation", "testing")

#: in a class's folder, where it holds no image itself, and below Tiny-ImageNet's test part
_IMAGES = "images"

#: Tiny-ImageNet's classes of the test images: a line an image, name and class first
_ANNOTATIONS = "val_annotations.txt"

#: what is said of a link that leads nowhere, in a circle, below a file or to what is no name
_BROKEN = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG)


class LeftOut:
    """What lies beside the images and is not read, counted, with an example of every kind."""

    def __init__(self):
        self._counts: collections.Counter[str] = collections.Counter()
        self._examples: dict[str, str] = {}

    def add(self, kind: str, path: str) -> None:
        """Notes one thing that is not read.

        Args:
            kind: of things; "(s)" in it where the plural has an s.
            path: where it is, below the root.
        """
        self._counts[kind] += 1
        self._examples.setdefault(kind, path)

    def __str__(self) -> str:
        return "; ".join(
            f"{count} {kind.replace('(s)', 's' * (count > 1), 1)} "
            f"(first: {printable(self._examples[kind])})"
            for kind, count in self._counts.items()
        )

    def warn(self, root: pathlib.Path) -> None:
        """Logs what is not read, if anything is."""
        if self._counts:
            LOGGER.warning("not read below %s: %s", printable(root), self)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The image files of every class and part; paths begin at the root.

    Attributes:
        training: class name -> paths, sorted; all images where the folder has no split.
        test: the same for the test part; None where the folder has no split.
        origin: which folders were taken, in words.
        left_out: what is not read.
    """

    training: dict[str, list[str]]
    test: dict[str, list[str]] | None
    origin: str
    left_out: LeftOut


@contextlib.contextmanager
def _naming_unreadable() -> Iterator[None]:
    """Turns what may not be looked at into a message that names it and the way out."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{printable(error.filename)} can't be read ({error.strerror}): mend its permissions "
            "or those of the folder that holds it, or move it elsewhere"
        ) from error


@_naming_unreadable()
def find_layout(root: pathlib.Path) -> Layout:
    """Returns where the images below a folder are.

    Raises:
        UserError: if there is no class, parts do not belong together, a class's name is not fit
            for one, or a folder can't be read.
    """
    left_out = LeftOut()
    parts = find_split(root)
    names = class_folders(parts[0] if parts else root)
    place = printable(parts[0] if parts else root)
    check_class_names(names, place, "rename the folder (and its like in the other part)")
    note_loose_files(root, parts, left_out)
    if parts is None:
        files = {name: list_images(root, name, left_out) for name in names}
        return Layout(files, None, f"the class folders of {printable(root)}", left_out)
    training = {name: list_images(root, f"{parts[0].name}/{name}", left_out) for name in names}
    if _has_annotations(parts[1]):
        test = _annotated(root, parts[1], names, left_out)
        how = f", whose classes {_ANNOTATIONS} names"
    else:
        _refuse_other_classes(parts, names)
        test = {name: list_images(root, f"{parts[1].name}/{name}", left_out) for name in names}
        how = ""
    origin = f"{parts[0].name}/ and {parts[1].name}/ of {printable(root)}{how}"
    return Layout(training, test, origin, left_out)


@_naming_unreadable()
def split_folders(root: pathlib.Path) -> tuple[pathlib.Path | None, pathlib.Path | None]:
    """Returns the folders of training and of test images; None for one that is not there.

    Raises:
        UserError: if one can't be read.
    """
    training, test = (
        next((root / name for name in names if (root / name).is_dir()), None)
        for names in (TRAINING_FOLDERS, TEST_FOLDERS)
    )
    return training, test


@_naming_unreadable()
def find_split(root: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path] | None:
    """Returns the folders of training and test images, or None if the folder is not split.

    Raises:
        UserError: if there is one of them alone, with class folders in it, or one can't be read.
    """
    training, test = split_folders(root)
    if training and test:
        return training, test
    for part, other in ((training, TEST_FOLDERS), (test, TRAINING_FOLDERS)):
        # A class may be called "train" too: its folder holds images.
        if part and _subfolders(part) and not list_images(root, part.name, LeftOut()):
            raise UserError(
                f"{printable(root)} holds {part.name}/ with class folders, but none of "
                f"{', '.join(f'{name}/' for name in other)}: put the other part beside it, or pass "
                f"--data_dir={printable(part)} to have --test_share of each class held out for test"
            )
    return None


def _entries(folder: pathlib.Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda e: e.name)


def _is_broken_link(entry: os.DirEntry[str]) -> bool:
    if not entry.is_symlink():
        return False
    try:
        entry.stat()
    except OSError as error:
        if error.errno in _BROKEN:
            return True
        raise
    return False


def _subfolders(folder: pathlib.Path) -> list[str]:
    shown = [entry for entry in _entries(folder) if not entry.name.startswith(".")]
    # Of a link that leads in a circle `is_dir` raises.
    return [entry.name for entry in shown if not _is_broken_link(entry) and entry.is_dir()]


@_naming_unreadable()
def class_folders(folder: pathlib.Path) -> list[str]:
    """Returns the sorted names of the folders in a folder.

    Raises:
        UserError: if there are none, or the folder can't be read.
    """
    names = _subfolders(folder)
    if not names:
        raise UserError(f"{printable(folder)} holds no folders: expected one for every class")
    return names


@_naming_unreadable()
def list_images(root: pathlib.Path, folder: str, left_out: LeftOut) -> list[str]:
    """Returns the sorted paths, from the root, of the images in a class's folder.

    Where the folder has no image itself, but a folder `images`, that one's are taken.

    Args:
        root: what paths begin from.
        folder: of the class, below the root; need not exist.
        left_out: notes what else lies there.

    Raises:
        UserError: if the folder can't be read.
    """
    if not (root / folder).is_dir():
        return []
    images, folders = [], []
    for entry in _entries(root / folder):
        path = f"{folder}/{entry.name}"
        if entry.name.startswith("."):
            _note_hidden(root, path, left_out)
        elif _is_broken_link(entry):
            left_out.add("broken link(s)", path)
        elif entry.is_dir():
            folders.append(path)
        elif not entry.is_file():
            left_out.add("file(s) of no regular kind", path)
        elif entry.name.lower().endswith(SUFFIXES):
            images.append(path)
        else:
            suffix = os.path.splitext(entry.name)[1].lower()
            left_out.add(
                f"{printable(suffix)} file(s)" if suffix else "file(s) without suffix", path
            )
    if not images and f"{folder}/{_IMAGES}" in folders:
        folders.remove(f"{folder}/{_IMAGES}")
        images = list_images(root, f"{folder}/{_IMAGES}", left_out)
    for path in folders:
        _note_images_within(root, path, "image file(s) in sub-folders of class folders", left_out)
    return images


def _note_hidden(root: pathlib.Path, path: str, left_out: LeftOut) -> None:
    """Notes images that programs hide; what Macs leave beside a file, ._NAME, is none."""
    name = os.path.basename(path)
    if os.path.isdir(root / path):  # what may not be looked at is left out all the same
        _note_images_within(root, path, "image file(s) in hidden folders", left_out)
    elif name.lower().endswith(SUFFIXES) and not name.startswith("._"):
        left_out.add("hidden image file(s)", path)


def _note_images_within(root: pathlib.Path, folder: str, kind: str, left_out: LeftOut) -> None:
    for where, _, names in os.walk(root / folder):
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                left_out.add(kind, os.path.relpath(os.path.join(where, name), root))


@_naming_unreadable()
def note_loose_files(
    root: pathlib.Path, parts: tuple[pathlib.Path, pathlib.Path] | None, left_out: LeftOut
) -> None:
    """Notes images that are in no class's folder, and folders that are neither part.

    Args:
        root: of the data.
        parts: the folders of training and test images; None where there is no split.
        left_out: where they are noted.

    Raises:
        UserError: if one of the folders can't be read.
    """
    part_names = [part.name for part in parts or ()]
    for folder in (root, *(parts or ())):
        for entry in _entries(folder):
            path = os.path.relpath(entry.path, root)
            if entry.name.startswith("."):
                _note_hidden(root, path, left_out)
            elif _is_broken_link(entry):
                left_out.add("broken link(s)", path)
            elif entry.name.lower().endswith(SUFFIXES) and entry.is_file():
                left_out.add("image file(s) in no class's folder", path)
            elif parts and folder == root and entry.is_dir() and entry.name not in part_names:
                kind = (
                    f"image file(s) in {printable(path)}/ (the parts are {', '.join(part_names)})"
                )
                _note_images_within(root, path, kind, left_out)


def _refuse_other_classes(parts: tuple[pathlib.Path, pathlib.Path], names: list[str]) -> None:
    extra = sorted(set(class_folders(parts[1])) - set(names))
    if extra:
        raise UserError(
            f"{printable(parts[1])} has classes that {printable(parts[0])} has not: "
            f"{', '.join(map(printable, extra[:5]))}; both must hold the same ones"
        )


def _has_annotations(part: pathlib.Path) -> bool:
    return (part / _ANNOTATIONS).is_file() and (part / _IMAGES).is_dir()


def _annotated(
    root: pathlib.Path, part: pathlib.Path, names: list[str], left_out: LeftOut
) -> dict[str, list[str]]:
    """Returns the test images of every class, as a list beside them tells."""
    place = part / _ANNOTATIONS
    present = set(list_images(root, f"{part.name}/{_IMAGES}", left_out))
    files: dict[str, list[str]] = {name: [] for name in names}
    try:
        with open(place, encoding="utf-8") as stream:
            # `splitlines` also cuts at what a name may hold: form feeds, U+0085, U+2028.
            lines = [line.removesuffix("\n") for line in stream]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{printable(place)} can't be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in files:
            raise UserError(
                f"{printable(place)}, line {number}: expected the name of an image and that of a "
                f"folder in {TRAINING_FOLDERS[0]}/, separated by a tab, but it reads "
                f"{printable(line[:80])}"
            )
        path = f"{part.name}/{_IMAGES}/{fields[0]}"
        if path in present:
            present.remove(path)
            files[fields[1]].append(path)
        else:
            left_out.add(f"images that {_ANNOTATIONS} names, but that are not there", path)
    for path in sorted(present):
        left_out.add(f"images that {_ANNOTATIONS} does not name", path)
    return {name: sorted(paths) for name, paths in files.items()}
