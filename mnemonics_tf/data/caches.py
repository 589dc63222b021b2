"""What was learned by reading a whole data set, kept for the next run; losing it costs time only.

Kept in the user's cache directory: `$XDG_CACHE_HOME/mnemonics_tf`, or `~/.cache/mnemonics_tf`.
"""

import contextlib
import os
import pathlib
import tempfile
from typing import Any, cast

import numpy as np

from mnemonics_tf.errors import UserError
from mnemonics_tf.run.files import read_arrays


def in_user_cache(name: str) -> pathlib.Path | None:
    """Returns the path of a file where a user's programs keep what they can make again.

    None if the user has no home, as in a container that runs under a number without a name.

    Args:
        name: of the file.
    """
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    # The specification of these directories has relative paths ignored.
    root = chosen if os.path.isabs(chosen) else os.path.expanduser("~/.cache")
    return pathlib.Path(root) / "mnemonics_tf" / name if os.path.isabs(root) else None


def load(path: pathlib.Path | None) -> dict[str, np.ndarray]:
    """Returns the arrays kept in a file; none if there is no such file or it is damaged."""
    if path is None:
        return {}
    try:
        return read_arrays(path)
    except (UserError, OSError):
        return {}


def store(path: pathlib.Path | None, arrays: dict[str, np.ndarray]) -> bool:
    """Keeps arrays in a file; returns whether that could be done.

    Several processes may do so at once: each writes a file of its own, and the last one stays.
    """
    if path is None:
        return False
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=".tmp-", suffix=".npz", delete=False
        ) as stream:
            temporary = stream.name
            np.savez(stream, **cast(dict[str, Any], arrays))
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        return False
    return True
