"""What TensorBoard shows of a run."""

import contextlib
import errno
import functools
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from mnemonics_tf.run.files import check_held, user_error_on_disk_trouble


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
        check_held(self._directory)
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

    def hyperparameters(
        self, settings: dict[str, dict[str, Any]], metrics: dict[str, float]
    ) -> None:
        """Writes a run's settings and its final metrics for the table of hyperparameters.

        Args:
            settings: by group and name.
            metrics: by tag.
        """
        values = {
            f"{group}/{name}": value if isinstance(value, (bool, int, float, str)) else str(value)
            for group, named in settings.items()
            for name, value in named.items()
        }
        columns = [hparams.Metric(tag, display_name=tag.removeprefix("final/")) for tag in metrics]
        with self._writing(step=0):
            hparams.hparams_config([hparams.HParam(name) for name in values], columns)
            hparams.hparams(values)
            for tag, value in metrics.items():
                tf.summary.scalar(tag, value)
        self.flush()

    def flush(self) -> None:
        """Makes what was written visible to a reader."""
        with self._writing(step=0):
            self._writer.flush()


def final_metrics(summary: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Returns the metrics by which runs are compared, by tag; those that were measured.

    Args:
        summary: what results.json holds of each head.
    """
    names = ("average_accuracy", "forgetting")
    metrics = {
        f"final/{head}_{name}": values[name] for head, values in summary.items() for name in names
    }
    last = {
        f"final/{head}_last": values["phase_accuracies"][-1] for head, values in summary.items()
    }
    return {tag: value for tag, value in (metrics | last).items() if value is not None}
