"""What TensorBoard shows of a run."""

import contextlib
import errno
import functools
import os
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from mnemonics_tf.run_directory import user_error_on_disk_trouble


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

    @contextlib.contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        """Within it summaries go to the event file; a full disk is a user's error."""
        with user_error_on_disk_trouble(self._directory):
            try:
                with self._writer.as_default(step=step):
                    yield
            except tf.errors.ResourceExhaustedError as error:  # TensorFlow's word for a full disk
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error

    def scalars(self, prefix: str, values: dict[str, float], step: int) -> None:
        """Writes named numbers under `prefix/`."""
        with self._writing(step):
            for name, value in values.items():
                tf.summary.scalar(f"{prefix}/{name}", value)

    def histograms(self, prefix: str, values: dict[str, np.ndarray], step: int) -> None:
        """Writes named collections of numbers under `prefix/`, each as its distribution."""
        with self._writing(step):
            for name, numbers in values.items():
                tf.summary.histogram(f"{prefix}/{name}", numbers)

    def images(self, name: str, images: np.ndarray, step: int) -> None:
        """Writes images, uint8 `[n, h, w, c]`, side by side under one name."""
        with self._writing(step):
            tf.summary.image(name, images, max_outputs=len(images))

    def flush(self) -> None:
        """Makes what was written visible to a reader."""
        with self._writing(step=0):
            self._writer.flush()
