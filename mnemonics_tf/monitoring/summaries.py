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

from mnemonics_tf.exemplars.budget import make_budget
from mnemonics_tf.run.files import check_held, user_error_on_disk_trouble
from mnemonics_tf.settings import ExemplarSettings


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

    def course(
        self, stage: str, phase: int, values: dict[str, float], step: int, before: int
    ) -> None:
        """Writes numbers of a stage twice: on the phase's own curve, and on one over all phases.

        Args:
            stage: first part of the tags.
            phase: index of the phase.
            values: by name.
            step: within the stage of this phase: epoch or outer step.
            before: steps that the stage had in all earlier phases.
        """
        self.scalars(f"{stage}/phase{phase:02d}", values, step)
        self.scalars(f"{stage}/all_phases", values, before + step)

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
        self, settings: dict[str, dict[str, Any]], metrics: dict[str, float], trial: str
    ) -> None:
        """Writes a run's settings and its final metrics for the table of hyperparameters.

        Args:
            settings: by group and name.
            metrics: by tag.
            trial: identifies the run: those of one trial become one line of the table.
        """
        columns = [hparams.Metric(tag, display_name=tag.removeprefix("final/")) for tag in metrics]
        values = _columns(settings)
        with self._writing(step=0):
            hparams.hparams_config([hparams.HParam(name) for name in values], columns)
            hparams.hparams(values, trial_id=trial)
            for tag, value in metrics.items():
                tf.summary.scalar(tag, value)
        self.flush()

    def flush(self) -> None:
        """Makes what was written visible to a reader."""
        with self._writing(step=0):
            self._writer.flush()


#: title of a final metric -> its name in results.json
_FINAL = {
    "average_accuracy": "average_accuracy",
    "last": "last_accuracy",
    "forgetting": "forgetting",
    "mean_forgetting": "mean_forgetting",
    "backward_transfer": "backward_transfer",
}
#: what tells runs apart at a glance: name of the setting -> title of its column. TensorBoard sorts
#: columns by the codes of their letters and shows the first five until others are asked for: these,
#: and `Memory`, stand in front because they begin with a capital.
_FIRST = {"method": "Method", "exemplars": "Exemplars", "num_phases": "N", "seed": "Seed"}


def _columns(settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns a run's line in the table of hyperparameters, by column.

    The budget is one column more, whichever it is, with the codec where it is none of pixels.
    """
    exemplar = ExemplarSettings(**settings["exemplar"])
    codec = "" if exemplar.codec == ExemplarSettings.codec else f", {exemplar.codec}"
    columns: dict[str, Any] = {"Memory": make_budget(exemplar).in_words + codec}
    for group, values in settings.items():
        for name, value in values.items():
            if name in _FIRST:
                columns[_FIRST[name]] = str(value)  # numbers would be shown with four places
            else:
                is_plain = isinstance(value, (bool, int, float, str))
                columns[f"{group}/{name}"] = value if is_plain else str(value)
    return columns


def final_metrics(summary: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Returns the metrics by which runs are compared, by tag.

    Those that were measured.

    Args:
        summary: what results.json holds of each head.
    """
    return {
        f"final/{head}_{title}": values[name]
        for head, values in summary.items()
        for title, name in _FINAL.items()
        if values[name] is not None
    }
