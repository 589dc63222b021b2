"""Several workers on one run: they begin with the chief's state, and stop together.

All workers run the same program on the same numbers. The chief alone works in the run directory;
the others have private ones, which hold what the chief's holds when they begin.
"""

import contextlib
import json
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from mnemonics_tf import devices
from mnemonics_tf.run.checkpoints import newest_whole
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import in_order_of_numbers, user_error_on_disk_trouble

#: of a file, in one message between workers
_PIECE_BYTES = 2**26


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
    files = _needed(directory) if devices.is_chief(strategy) else []
    sizes = {str(path.relative_to(directory.root)): path.stat().st_size for path in files}
    mine = json.dumps(sizes).encode()
    told = _chiefs_bytes(strategy, mine, chiefs_number(strategy, len(mine)))
    for name, size in json.loads(told).items():
        _share_file(strategy, directory.root / name, size)


def _share_file(strategy: tf.distribute.Strategy, path: pathlib.Path, size: int) -> None:
    """Copies a file of the chief's to the other workers, in pieces: it may be larger than memory.

    Args:
        strategy: all workers call this.
        path: of the file here.
        size: in bytes.
    """
    chief = devices.is_chief(strategy)
    with contextlib.nullcontext() if chief else user_error_on_disk_trouble(path, "TMPDIR"):
        if not chief:
            path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "rb" if chief else "wb") as stream:
            for start in range(0, size, _PIECE_BYTES):
                length = min(_PIECE_BYTES, size - start)
                piece = _chiefs_bytes(strategy, stream.read(length) if chief else b"", length)
                if not chief:
                    stream.write(piece)


def _chiefs_bytes(strategy: tf.distribute.Strategy, contents: bytes, size: int) -> bytes:
    """Returns the chief's bytes on every worker.

    Args:
        strategy: all workers call this.
        contents: of the chief; those of another worker do not count.
        size: of the chief's.
    """
    words = np.zeros(-(-size // 8), np.int64)
    if devices.is_chief(strategy):
        words.view(np.uint8)[: len(contents)] = np.frombuffer(contents, np.uint8)
    return _sum_of_workers(strategy, words).tobytes()[:size]


def _needed(directory: RunDirectory) -> list[pathlib.Path]:
    """Returns settings, an own backbone, records, the last phase's model, memory, checkpoint."""
    found = directory.root.glob("phases/*/phase.json")
    records = sorted(found, key=lambda path: in_order_of_numbers(path.parent.name))
    last = (
        [records[-1].with_name(name) for name in ("model.npz", "exemplars.npz")] if records else []
    )
    others = [*directory.root.glob("phases/*/learned.json")]
    for phase in directory.root.glob("phases/*"):
        if phase / "phase.json" not in records and (checkpoint := newest_whole(phase)):
            others.append(checkpoint)
    said = [directory.flags, directory.settings, directory.classes]
    said += [directory.backbone, directory.backbone_weights]
    return [path for path in (*said, *records, *last, *others) if path.exists()]


def _sum_of_workers(strategy: tf.distribute.Strategy, values: np.ndarray) -> np.ndarray:
    """Returns the sum of the workers' values."""
    local = len(strategy.extended.worker_devices)

    def value(context) -> tf.Tensor:
        first = context.replica_id_in_sync_group % local == 0
        return tf.constant(values if first else np.zeros_like(values))

    parts = strategy.experimental_distribute_values_from_function(value)
    return strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None).numpy()
