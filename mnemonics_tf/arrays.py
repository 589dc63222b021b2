"""Arrays: how far images have moved, and whether what comes from elsewhere is what was expected."""

from collections.abc import Mapping

import numpy as np

from mnemonics_tf.errors import UserError

#: images that are compared at once
_AT_ONCE = 256


def grey_levels_moved(start: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Returns how far images have moved, `[n]`: root mean square over an image, in grey levels.

    Args:
        start: uint8 `[n, h, w, c]`.
        now: the same images later.
    """
    distances = np.empty(len(start), np.float32)
    for first in range(0, len(start), _AT_ONCE):  # as floats all may be more than memory holds
        part = slice(first, first + _AT_ONCE)
        moved = now[part].astype(np.float32) - start[part]
        distances[part] = np.sqrt(np.square(moved).mean(axis=(1, 2, 3)))
    return distances


def check_shapes(
    arrays: dict[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], place: str
) -> None:
    """Raises UserError unless `arrays` has numbers of every expected name and shape.

    Args:
        arrays: as read from a file.
        expected: name to shape.
        place: where they come from, for the message.
    """
    for name, shape in expected.items():
        array = arrays.get(name)
        if array is None or array.shape != tuple(shape) or array.dtype.kind not in "fiu":
            found = "nothing" if array is None else f"{array.dtype} of shape {array.shape}"
            raise UserError(
                f"{place} does not fit this run: for {name!r} it holds {found}, expected numbers "
                f"of shape {tuple(shape)}; it belongs to another run or architecture, or was "
                "changed: put the right file back"
            )
