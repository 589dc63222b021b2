"""What TensorBoard shows of a run."""

import functools
import pathlib

import numpy as np
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

    def histograms(self, prefix: str, values: dict[str, np.ndarray], step: int) -> None:
        """Writes named collections of numbers under `prefix/`, each as its distribution."""
        with self._writer.as_default(step=step):
            for name, numbers in values.items():
                tf.summary.histogram(f"{prefix}/{name}", numbers)

    def images(self, name: str, images: np.ndarray, step: int) -> None:
        """Writes images, uint8 `[n, h, w, c]`, side by side under one name."""
        with self._writer.as_default(step=step):
            tf.summary.image(name, images, max_outputs=len(images))

    def flush(self) -> None:
        """Makes what was written visible to a reader."""
        self._writer.flush()
