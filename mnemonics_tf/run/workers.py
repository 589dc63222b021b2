"""Several workers on one run: they begin with the chief's state, and stop together.

All workers run the same program on the same numbers. The chief alone works in the run directory;
the others have private ones, which hold what the chief's holds when they begin.
"""

import contextlib
import io
import pathlib
import tempfile
import zipfile
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from mnemonics_tf import devices
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import in_order_of_numbers

#: 64-bit words in one message between workers
_WORDS = 2**23


@contextlib.contextmanager
def own_directory(strategy: tf.distribute.Strategy, run_dir: str) -> Iterator[str]:
    """Yields where a worker writes: the chief into the run, others where nobody looks."""
    if devices.is_chief(strategy):
        yield run_dir
        return
    with tempfile.TemporaryDirectory(prefix="mnemonics_tf_worker_") as private:
        yield private


def any_worker(strategy: tf.distribute.Strategy, condition: bool) -> bool:
    """Returns whether the condition holds on any worker; all of them have to ask."""
    if not devices.spans_workers(strategy):
        return condition
    return bool(_sum_of_workers(strategy, np.array([condition], np.int64))[0])


def chiefs_number(strategy: tf.distribute.Strategy, number: int) -> int:
    """Returns the chief's number on every worker; all of them have to ask."""
    if not devices.spans_workers(strategy):
        return number
    mine = number if devices.is_chief(strategy) else 0
    return int(_sum_of_workers(strategy, np.array([mine], np.int64))[0])


def share_state(strategy: tf.distribute.Strategy, directory: RunDirectory) -> None:
    """Copies what it takes to go on with a run from the chief's directory to the other workers'.

    Args:
        strategy: all workers call this.
        directory: of this worker: the run's own for the chief, an empty one for the others.
    """
    if not devices.spans_workers(strategy):
        return
    chief = devices.is_chief(strategy)
    contents = _packed(directory) if chief else b""
    size = int(_sum_of_workers(strategy, np.array([len(contents)], np.int64))[0])
    words = np.zeros(-(-size // 8), np.int64)
    words.view(np.uint8)[: len(contents)] = np.frombuffer(contents, np.uint8)
    for start in range(0, len(words), _WORDS):
        words[start : start + _WORDS] = _sum_of_workers(strategy, words[start : start + _WORDS])
    if not chief:
        with zipfile.ZipFile(io.BytesIO(words.tobytes()[:size])) as archive:
            archive.extractall(directory.root)


def _packed(directory: RunDirectory) -> bytes:
    """Returns settings, an own backbone, records, the last phase's model, memory, checkpoints."""
    found = directory.root.glob("phases/*/phase.json")
    records = sorted(found, key=lambda path: in_order_of_numbers(path.parent.name))
    last = (
        [records[-1].with_name(name) for name in ("model.npz", "exemplars.npz")] if records else []
    )
    others = [*directory.root.glob("phases/*/learned.json")]
    others += directory.root.glob("phases/*/checkpoint-*.npz")
    said = [directory.flags, directory.settings, directory.classes]
    said += [directory.backbone, directory.backbone_weights]
    files = (*said, *records, *last, *others)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path in filter(pathlib.Path.exists, files):
            archive.write(path, path.relative_to(directory.root))
    return stream.getvalue()


def _sum_of_workers(strategy: tf.distribute.Strategy, values: np.ndarray) -> np.ndarray:
    """Returns the sum of the workers' values."""
    local = len(strategy.extended.worker_devices)

    def value(context) -> tf.Tensor:
        first = context.replica_id_in_sync_group % local == 0
        return tf.constant(values if first else np.zeros_like(values))

    parts = strategy.experimental_distribute_values_from_function(value)
    return strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None).numpy()
