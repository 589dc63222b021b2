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


def user_cache() -> pathlib.Path:
    """Returns the directory in which a user's programs keep what they can make again."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    # The specification of these directories has relative paths ignored.
    root = pathlib.Path(chosen) if os.path.isabs(chosen) else pathlib.Path("~/.cache").expanduser()
    return root / "mnemonics_tf"


def load(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays kept in a file; none if there is no such file or it is damaged."""
    try:
        return read_arrays(path)
    except (UserError, OSError):
        return {}


def store(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> bool:
    """Keeps arrays in a file; returns whether that could be done.

    Several processes may do so at once: each writes a file of its own, and the last one stays.
    """
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
