"""Exports read back: whether they are still what was published, and what they answer."""

import contextlib
import hashlib
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mnemonics_tf.errors import UserError
from mnemonics_tf.run.files import read_json, write_json

EXTRA = "assets.extra"
DIGESTS = "digests.json"

#: TensorFlow takes the path of a checkpoint for a pattern; the others stand for themselves too
_PATTERN_CHARACTERS = "[\\"


def write_digests(saved_model: pathlib.Path) -> None:
    """Notes, beside an export's files, the SHA-256 of each, by which `damage` knows them again."""
    write_json(saved_model / EXTRA / DIGESTS, _digests(saved_model))


def _digests(saved_model: pathlib.Path) -> dict[str, str]:
    found = {}
    for path in sorted(saved_model.rglob("*")):
        name = path.relative_to(saved_model).as_posix()
        if path.is_file() and name != f"{EXTRA}/{DIGESTS}":
            with open(path, "rb") as stream:
                found[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def damage(published: pathlib.Path) -> str:
    """Returns what is wrong with an export that was published, or nothing.

    Its files are compared with the digests that were written with them. Exports of earlier versions
    have none: these are loaded.
    """
    if not published.is_dir():
        return "is no folder" if published.exists() else "is missing"
    extra = published / EXTRA
    if not (extra / DIGESTS).exists():
        return _damage_without_digests(published)
    try:
        noted, found = read_json(extra / DIGESTS), _digests(published)
    except (OSError, UserError) as error:
        return f"can't be read ({error})"
    if not isinstance(noted, dict) or not noted:
        return f"has a damaged {DIGESTS}"
    lost = [name for name in noted if name not in found]
    changed = [name for name in noted if name in found and found[name] != noted[name]]
    if lost:
        return f"has lost {', '.join(lost)}"
    return f"has changed since it was published: {', '.join(changed)}" if changed else ""


def _damage_without_digests(published: pathlib.Path) -> str:
    needed = ("saved_model.pb", "variables/variables.index", f"{EXTRA}/labels.txt")
    for name in needed:
        path = published / name
        if not path.is_file() or not path.stat().st_size:
            return f"has lost {name}"
    try:
        _load(published)
    except UserError as error:
        return str(error)
    return ""


def holds_pattern(path: pathlib.Path) -> bool:
    """Whether TensorFlow would not find a checkpoint below this path, but what the path matches."""
    return any(character in str(path.absolute()) for character in _PATTERN_CHARACTERS)


@contextlib.contextmanager
def plain_path(path: pathlib.Path) -> Iterator[str]:
    """Yields a path to the same place in which TensorFlow finds no pattern."""
    if not holds_pattern(path):
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = pathlib.Path(folder, "link")
        link.symlink_to(path.absolute())
        yield str(link)


def _load(published: pathlib.Path) -> Any:
    try:
        with plain_path(published) as path:
            return tf.saved_model.load(path)
    except Exception as error:  # TensorFlow raises nearly anything at damaged files
        raise UserError(f"can't be loaded ({' '.join(str(error).split())[:200]})") from error


class Export:
    """An export, to be asked in this process. Loading one runs what is in it.

    Args:
        published: its directory, RUN/export/NAME/VERSION.
        image_shape: of the images it is to be asked about.

    Raises:
        UserError: if it is missing, damaged, or made for other images.
    """

    def __init__(self, published: pathlib.Path, image_shape: Sequence[int]):
        self._path = published
        trouble = damage(published)
        try:
            self._loaded: Any = None if trouble else _load(published)
        except UserError as error:
            trouble = str(error)
        if trouble:
            raise self._error(trouble)
        expected = list(image_shape)
        found = self._signature("serving_default").structured_input_signature[1]["images"].shape[1:]
        if found.as_list() != expected:
            raise self._error(f"takes images {found.as_list()}, and the data has {expected}")

    def class_ids(self, signature: str, images: np.ndarray) -> np.ndarray:
        """Returns the original ids of the classes that a signature says of images, `[n]`.

        Args:
            signature: its name.
            images: uint8 `[n, h, w, c]`.

        Raises:
            UserError: if the export has no such signature, or fails.
        """
        predict = self._signature(signature)
        try:
            answer: np.ndarray = predict(images=tf.constant(images))["class_id"].numpy()
        except (KeyError, TypeError, ValueError, tf.errors.OpError) as error:
            raise self._error(f"fails ({' '.join(str(error).split())[:200]})") from error
        return answer

    def _signature(self, name: str) -> Any:
        try:
            return self._loaded.signatures[name]
        except (AttributeError, KeyError) as error:
            raise self._error(f"has no signature {name}") from error

    def _error(self, trouble: str) -> UserError:
        return UserError(
            f"the export {self._path} {trouble}: put the right one back, or score the phase "
            "without --from_export, from its model and exemplars"
        )
