"""What TensorBoard shows of a run."""

import functools
import pathlib

import tensorflow as tf


class Summaries:
    """Writes a run's event files, the first of them when there is something to show.

    Args:
        directory: of the event files.
    """

    def __init__(self, directory: pathlib.Path):
        self._directory = directory

    @functools.cached_property
    def _writer(self) -> tf.summary.SummaryWriter:
        return tf.summary.create_file_writer(str(self._directory))

    def scalars(self, prefix: str, values: dict[str, float], step: int) -> None:
        """Writes named numbers under `prefix/`."""
        with self._writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(f"{prefix}/{name}", value)

    def flush(self) -> None:
        """Makes what was written visible to a reader."""
        self._writer.flush()
