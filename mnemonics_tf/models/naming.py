"""Names that Keras gives to layers which have none of their own."""

import collections
import contextlib
from collections.abc import Iterator

from keras.src.backend.common import global_state

#: where Keras counts the names it gave, in each thread
_COUNTS = "object_name_uids"


@contextlib.contextmanager
def numbered_anew() -> Iterator[None]:
    """Within it layers are numbered from the first on, and after it as if nothing had been built.

    A model's arrays are kept under its layers' names (`dense_1/kernel`): what else a process has
    built must not show in them. Keras offers a public way to begin anew, and none to go on.
    """
    before = global_state.get_global_attribute(_COUNTS)
    global_state.set_global_attribute(_COUNTS, collections.defaultdict(int))
    try:
        yield
    finally:
        global_state.set_global_attribute(_COUNTS, before)
