"""Where the bytes of image files come from, inside a graph and outside."""

import abc
import hashlib
import os
from typing import Any

import numpy as np
import tensorflow as tf

from mnemonics_tf.errors import UserError, printable

#: of a file that a digest samples, so many bytes are read
_SAMPLED_BYTES = 2**20


class Storage(abc.ABC):
    """Image files by their keys.

    Attributes:
        digest_kind: what digests are made of; those of different kinds can't be compared.
    """

    digest_kind: str

    @abc.abstractmethod
    def read(self, key: tf.Tensor) -> tf.Tensor:
        """Returns the bytes of the file that a key names, inside a graph."""

    @abc.abstractmethod
    def fetch(self, key: Any) -> bytes:
        """Returns the same bytes, outside of graphs.

        Raises:
            OSError, ValueError: if they can't be read.
        """

    @abc.abstractmethod
    def describe(self, key: Any) -> str:
        """Returns what a person finds the file by."""

    @abc.abstractmethod
    def digest(self, keys: np.ndarray, sampled: int) -> bytes:
        """Returns what tells the images of one class from others, at little cost.

        Args:
            keys: of its files, `[n, ...]`.
            sampled: how many of them may be read.

        Raises:
            UserError: names a file that can't be read.
        """


class FileStorage(Storage):
    """Files below a directory; keys are their paths from there, bytes.

    Args:
        root: the directory.
    """

    digest_kind = "files"

    def __init__(self, root: str | os.PathLike):
        self._root = os.fsencode(root).rstrip(b"/") + b"/"

    def read(self, key: tf.Tensor) -> tf.Tensor:
        return tf.io.read_file(self._root + key)

    def fetch(self, key: bytes) -> bytes:
        with open(self._root + key, "rb") as stream:
            return stream.read()

    def describe(self, key: bytes) -> str:
        return printable(self._root + key)

    def digest(self, keys: np.ndarray, sampled: int) -> bytes:
        """Returns a hash of names, sizes and the beginnings of some files, evenly spread by name.

        Folders do not count, nor the order in which the files come. A file that was replaced by
        one of its own name and size is missed unless it is among the sampled ones.
        """
        hasher = hashlib.blake2b(digest_size=16)
        named = sorted((os.path.basename(key), bytes(key)) for key in keys)
        rows = np.linspace(0, len(named) - 1, min(sampled, len(named))).astype(int)
        chosen = set(rows.tolist())
        for row, (name, key) in enumerate(named):
            try:
                size = os.stat(self._root + key).st_size
                hasher.update(b"%s\0%d\0" % (name, size))
                if row in chosen:
                    with open(self._root + key, "rb") as stream:
                        hasher.update(stream.read(_SAMPLED_BYTES))
            except OSError as error:
                raise UserError(
                    f"{self.describe(key)} can't be read ({error.strerror}): put it back, or mend "
                    "its permissions"
                ) from error
        return hasher.digest()
