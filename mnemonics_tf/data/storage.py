"""Where the bytes of image files come from, inside a graph and outside."""

import abc
import os
from typing import Any

import tensorflow as tf

from mnemonics_tf.errors import printable


class Storage(abc.ABC):
    """Image files by their keys."""

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


class FileStorage(Storage):
    """Files below a directory; keys are their paths from there, bytes.

    Args:
        root: the directory.
    """

    def __init__(self, root: str | os.PathLike):
        self._root = os.fsencode(root).rstrip(b"/") + b"/"

    def read(self, key: tf.Tensor) -> tf.Tensor:
        return tf.io.read_file(self._root + key)

    def fetch(self, key: bytes) -> bytes:
        with open(self._root + key, "rb") as stream:
            return stream.read()

    def describe(self, key: bytes) -> str:
        return printable(self._root + key)
