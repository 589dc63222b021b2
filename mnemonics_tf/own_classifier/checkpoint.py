"""A file from which exemplars for a Keras classifier go on learning after a stop."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np

from mnemonics_tf.errors import UserError
from mnemonics_tf.paths import user_path
from mnemonics_tf.run.files import check_output, read_arrays, write_atomically

#: between two writes
_SECONDS = 60.0

#: of an array that stand in memory at a time, unless a row of it has more
_PIECE_BYTES = 2**24


def pieces(array: np.ndarray) -> Iterator[bytes]:
    """Yields what `array.tobytes()` returns, little by little: a mapped file may exceed the memory.

    Args:
        array: of any shape.
    """
    rows = np.atleast_1d(array)
    step = max(1, _PIECE_BYTES * len(rows) // max(1, rows.nbytes))
    for start in range(0, len(rows), step):
        yield rows[start : start + step].tobytes()


class LearningCheckpoint:
    """What a stop costs is a minute's work at most.

    Args:
        path: of the file, an .npz.
        *owner: what decides the course of learning, functions apart; the file goes with it alone.

    Raises:
        UserError: if the file can't be written there.
    """

    def __init__(self, path: str | os.PathLike[str], *owner: Any):
        self._path = user_path(path)
        check_output("checkpoint", self._path)
        hasher = hashlib.blake2b(digest_size=16)
        for part in owner:
            for piece in pieces(part) if isinstance(part, np.ndarray) else [repr(part).encode()]:
                hasher.update(piece)
        self._owner = hasher.hexdigest()
        self._written = time.monotonic()

    def load(self) -> tuple[int, dict[str, np.ndarray]] | None:
        """Returns the step and the arrays that were saved; None where nothing was.

        Raises:
            UserError: if the file is damaged, or belongs to other exemplars.
        """
        if not self._path.exists():
            return None
        arrays = read_arrays(self._path)
        owner, step = str(arrays.pop("owner", "")), arrays.pop("step", np.array(0))
        if owner != self._owner:
            raise UserError(
                f"checkpoint={self._path} belongs to exemplars of other images, of another model "
                "or of other settings: pass another path, or remove the file"
            )
        return int(step), arrays

    def save(self, step: int, arrays: Callable[[], dict[str, np.ndarray]]) -> None:
        """Writes what `load` will return, if the last time was a minute ago.

        Args:
            step: outer steps done.
            arrays: makes what is needed to go on.
        """
        if time.monotonic() - self._written < _SECONDS:
            return
        named = {**arrays(), "owner": np.array(self._owner), "step": np.array(step)}
        write_atomically(
            self._path,
            lambda stream: np.savez(stream, **cast(dict[str, Any], named)),
            "checkpoint",
        )
        self._written = time.monotonic()

    def remove(self) -> None:
        """Takes the file away, once learning is done."""
        self._path.unlink(missing_ok=True)
