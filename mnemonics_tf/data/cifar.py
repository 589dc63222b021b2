"""CIFAR-100 from prepared TFDS data, from either of its official archives, or by download.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

import dataclasses
import hashlib
import io
import lzma
import pickle
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mnemonics_tf.data.source import InMemorySource, check_class_names, split_by_class
from mnemonics_tf.data.tfds_folder import find_prepared, open_prepared, prepare
from mnemonics_tf.errors import UserError
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.paths import user_path

_TFDS_NAME = "cifar100"

_IMAGE_SIZE = 32
_PIXEL_BYTES = 3 * _IMAGE_SIZE * _IMAGE_SIZE
_RECORD_BYTES = 2 + _PIXEL_BYTES  # the binary form: coarse label, fine label, R, G and B planes

_PYTHON_MEMBERS = ("train", "test", "meta")
_BINARY_MEMBERS = ("train.bin", "test.bin", "fine_label_names.txt")
_FORMS = {"cifar-100-python": _PYTHON_MEMBERS, "cifar-100-binary": _BINARY_MEMBERS}
_ARCHIVE_SUFFIXES = (".tar.gz", ".tar.xz")

# The largest official member (the pickled training part) has 155 MB.
_MAX_MEMBER_BYTES = 200 * 2**20
_MAX_ARCHIVE_BYTES = 2 * _MAX_MEMBER_BYTES


class Cifar100(InMemorySource):
    """CIFAR-100: 100 classes, each with 500 training and 100 test images of 32x32 RGB pixels.

    Mean, standard deviation and augmentation (random crop after padding, mirroring) are those of
    LUCIR (Hou et al., CVPR 2019), which the paper's experiments build on. Its standard deviation is
    the mean of the images' own (0.20); over all pixels it would be 0.26.
    """

    name = "cifar100"
    channel_mean = (0.5071, 0.4866, 0.4409)
    channel_std = (0.2009, 0.1984, 0.2023)
    augmentation = "crop_mirror"


@dataclasses.dataclass(frozen=True)
class Contents:
    """What CIFAR-100 data must hold to be taken for the real thing.

    Attributes:
        num_classes: the number of fine classes.
        images_per_class: split ("train", "test") -> images of every class.
        md5: member of the python form -> MD5 of its bytes. The binary form is checked by its
            layout: sizes, label ranges and images per class.
    """

    num_classes: int
    images_per_class: Mapping[str, int]
    md5: Mapping[str, str]


OFFICIAL = Contents(
    num_classes=100,
    images_per_class={"train": 500, "test": 100},
    md5={
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
)


def load_cifar100(data_dir: str, download: bool, contents: Contents = OFFICIAL) -> Cifar100:
    """Reads CIFAR-100 into memory.

    Looked for, in this order: data that TFDS has prepared under `data_dir`; the folder or the
    archive (.tar.gz, .tar.xz) of the python form, then of the binary form, where `data_dir` may
    itself be the folder or the archive; a download by TFDS, where it is allowed. Whichever is
    found first is used, and all of them give the images in the same order.

    Args:
        data_dir: where to look.
        download: whether TFDS may download and prepare the data under `data_dir`.
        contents: what the data must hold.

    Raises:
        UserError: if there is no data, or the data found is damaged or not CIFAR-100.
    """
    directory = user_path(data_dir)
    place = find_prepared(directory, _TFDS_NAME) or _find_official(directory)
    if place is None and download:
        place = _download(directory)
    if place is None:
        raise UserError(_what_was_looked_for(directory))
    if (place / "dataset_info.json").is_file():
        parts, names = _read_prepared(place)
    else:
        parts, names = _read_official(place, contents)
    _check_contents(place, parts, names, contents)
    source = Cifar100(split_by_class(*parts["train"]), split_by_class(*parts["test"]), names)
    source.origin = str(place)
    return source


# Looking for the data


def _find_official(directory: Path) -> Path | None:
    """Returns the folder or the archive with the official files, in either form."""
    if directory.is_file():
        return directory
    for folder, members in _FORMS.items():
        if (directory / members[0]).is_file():
            return directory
        for suffix in ("", *_ARCHIVE_SUFFIXES):
            path = directory / (folder + suffix)
            if path.exists():
                return path
    return None


def _what_was_looked_for(directory: Path) -> str:
    archives = [folder + suffix for folder in _FORMS for suffix in _ARCHIVE_SUFFIXES]
    state = "" if directory.exists() else " (which does not exist)"
    return (
        f"no CIFAR-100 in {str(directory)!r}{state}; looked for data prepared by TFDS "
        f"(cifar100/VERSION/dataset_info.json), the folders {', '.join(_FORMS)} and the archives "
        f"{', '.join(archives)}. Put one of them there, name the folder or the archive itself, "
        "or pass --download to let TFDS fetch it"
    )


def _download(directory: Path) -> Path:
    LOGGER.info("downloading CIFAR-100 into %s", directory)
    try:
        return prepare(_TFDS_NAME, directory)
    except UserError as error:
        raise UserError(
            f"{error}. Put cifar-100-python.tar.gz or cifar-100-binary.tar.gz there instead"
        ) from error


# Data prepared by TFDS


def _read_prepared(place: Path) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], list[str]]:
    builder = open_prepared(place)
    try:
        parts = {split: _read_prepared_split(builder, split) for split in ("train", "test")}
        names = builder.info.features["label"].names
    except Exception as error:  # noqa: BLE001, it raises nearly anything at damaged files
        raise UserError(
            f"the TFDS data in {str(place)!r} cannot be read: {error}. Remove it and prepare it "
            "again, or put cifar-100-python.tar.gz in its stead"
        ) from error
    return parts, names


def _read_prepared_split(builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    if builder.info.file_format.value == "array_record":
        examples = list(builder.as_data_source(split))
    else:
        examples = list(builder.as_dataset(split=split).as_numpy_iterator())
    # TFDS shuffles when it prepares; by their ids the images lie as in the official files.
    examples.sort(key=lambda example: example["id"])
    images = np.stack([example["image"] for example in examples])
    return images, np.array([example["label"] for example in examples], np.int32)


# The official files


def _read_official(
    place: Path, contents: Contents
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], list[str]]:
    files = _read_archive(place) if place.is_file() else _read_folder(place)
    if set(_PYTHON_MEMBERS) <= set(files):
        for member in _PYTHON_MEMBERS:
            _check_md5(place, member, files[member], contents.md5)
        parts = {split: _decode_python(place, split, files[split]) for split in ("train", "test")}
        names = _unpickle(place, "meta", files["meta"], b"fine_label_names")
        return parts, [name.decode() for name in names]
    parts = {
        split: _decode_binary(place, f"{split}.bin", files[f"{split}.bin"])
        for split in ("train", "test")
    }
    return parts, files["fine_label_names.txt"].decode("utf-8", "surrogateescape").split()


def _read_folder(folder: Path) -> dict[str, bytes]:
    for members in _FORMS.values():
        if all((folder / member).is_file() for member in members):
            try:
                return {member: (folder / member).read_bytes() for member in members}
            except OSError as error:
                raise UserError(f"{str(folder)!r} can't be read: {error}") from error
    raise UserError(f"{str(folder)!r} is not complete: {_what_a_form_holds()}")


def _read_archive(archive: Path) -> dict[str, bytes]:
    """Returns the members of one form, by name; nothing is written to disk."""
    wanted = {
        PurePosixPath(folder, member): member
        for folder, members in _FORMS.items()
        for member in members
    }
    files: dict[str, bytes] = {}
    total = 0
    try:
        # As a stream: seeking back in a compressed archive would decompress it from the start.
        with tarfile.open(archive, "r|*", bufsize=2**20) as tar:
            for entry in tar:
                total += entry.size
                if entry.size > _MAX_MEMBER_BYTES or total > _MAX_ARCHIVE_BYTES:
                    raise UserError(
                        f"{str(archive)!r} is too large for CIFAR-100: {entry.name!r} has "
                        f"{entry.size} bytes, the members up to it {total}; expected at most "
                        f"{_MAX_MEMBER_BYTES} and {_MAX_ARCHIVE_BYTES}"
                    )
                member = wanted.get(PurePosixPath(entry.name))
                if member is None or not entry.isreg():
                    continue
                contents = tar.extractfile(entry)
                assert contents is not None, "a regular file has contents"
                files[member] = contents.read()
                if any(set(members) <= set(files) for members in _FORMS.values()):
                    return files
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(
            f"{str(archive)!r} cannot be read as a tar archive ({error}); it may be damaged or "
            "cut short: fetch it again"
        ) from error
    raise UserError(f"{str(archive)!r} is not complete: {_what_a_form_holds()}")


def _what_a_form_holds() -> str:
    forms = [f"{', '.join(members)} (as in {folder})" for folder, members in _FORMS.items()]
    return "expected " + " or ".join(forms)


def _check_md5(place: Path, member: str, data: bytes, md5: Mapping[str, str]) -> None:
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != md5[member]:
        raise UserError(
            f"wrong checksum: {member!r} of {str(place)!r} has MD5 {found}, expected "
            f"{md5[member]}; the file is damaged or not the official one: fetch it again"
        )


def _decode_python(place: Path, member: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.asarray(_unpickle(place, member, data, b"data"))
    labels = np.asarray(_unpickle(place, member, data, b"fine_labels"))
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), _PIXEL_BYTES):
        raise UserError(
            f"{member!r} of {str(place)!r} holds {pixels.dtype} {pixels.shape} for {len(labels)} "
            f"labels; expected uint8 [images, {_PIXEL_BYTES}]"
        )
    return _images_from_planes(pixels), labels


def _decode_binary(place: Path, member: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    if not data or len(data) % _RECORD_BYTES:
        raise UserError(
            f"{member!r} of {str(place)!r} has {len(data)} bytes; expected a multiple of "
            f"{_RECORD_BYTES}: the file is damaged or cut short, fetch it again"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD_BYTES)
    return _images_from_planes(records[:, 2:]), records[:, 1]


def _images_from_planes(pixels: np.ndarray) -> np.ndarray:
    """Turns the planes R, G, B of `pixels` (`[n, 3072]`) into images `[n, 32, 32, 3]`."""
    return pixels.reshape(-1, 3, _IMAGE_SIZE, _IMAGE_SIZE).transpose(0, 2, 3, 1)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles plain containers and NumPy arrays; whatever else a pickle asks for is refused."""

    # NumPy 2 moved the module that old pickles name, hence no import by name.
    _reconstruct = np.empty(0).__reduce__()[0]
    _ALLOWED = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which no CIFAR-100 file needs"
            )
        return self._ALLOWED[module, name]


def _unpickle(place: Path, member: str, data: bytes, key: bytes) -> Any:
    try:
        return _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()[key]
    except Exception as error:  # a damaged pickle may raise anything at all
        raise UserError(
            f"{member!r} of {str(place)!r} cannot be read ({type(error).__name__}: {error}); "
            "use the official archive"
        ) from error


def _check_contents(
    place: Path,
    parts: Mapping[str, tuple[np.ndarray, np.ndarray]],
    names: list[str],
    contents: Contents,
) -> None:
    if len(names) != contents.num_classes:
        raise UserError(
            f"{str(place)!r} names {len(names)} classes; expected {contents.num_classes}"
        )
    check_class_names(names, str(place), "fetch it again")
    for split, (images, labels) in parts.items():
        expected = contents.images_per_class[split]
        counts = np.array([np.sum(labels == c) for c in range(contents.num_classes)])
        if np.any(counts != expected) or len(images) != counts.sum():
            raise UserError(
                f"the {split} part of {str(place)!r} has {len(images)} images, "
                f"{counts.min()} to {counts.max()} for each of the labels "
                f"0..{contents.num_classes - 1}; expected {expected} for each and no other labels"
            )
