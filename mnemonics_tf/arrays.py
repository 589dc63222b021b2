"""Arrays from elsewhere: whether they are what was expected."""

from collections.abc import Mapping

import numpy as np

from mnemonics_tf.errors import UserError


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
