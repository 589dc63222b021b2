"""What a meta-gradient is asked: the interface of every estimator.

This module knows neither data sets nor networks: it takes loss functions and tensors.
"""

import abc
import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from mnemonics_tf.bilevel.base_level import BaseLevel
from mnemonics_tf.bilevel.problem import MetaGradientResult, Nest


class MetaGradient(abc.ABC):
    """Computes d(outer loss) / d(exemplars).

    Build it once and use it often: its graphs are traced at the first estimate.
    """

    def estimate(
        self,
        parameters: Sequence[tf.Tensor],
        exemplars: tf.Tensor,
        labels: tf.Tensor,
        batches: tf.Tensor,
        step_inputs: Nest = (),
        outer_input: Nest = (),
        learning: np.ndarray | None = None,
    ) -> MetaGradientResult:
        """Trains on the exemplars and differentiates the outer loss of the outcome (Eq. 8 and 9).

        Shapes and dtypes which did not occur before cost a new trace; new values do not.

        Args:
            parameters: theta_0, float tensors or variables of any shapes; they are not changed.
            exemplars: float [n, ...].
            labels: int [n].
            batches: int [T, b], the rows of `exemplars` which each of the T inner steps sees; T
                times range(n) makes full batches. A row may occur more than once in a batch.
            step_inputs: nest of tensors with leading axis T; slice t goes to the inner loss at
                step t (augmentation seeds, real data that joins the batch).
            outer_input: nest of tensors for the outer loss.
            learning: bool [n], the exemplars whose gradient is wanted; that of the others is zero,
                and may cost nothing. None: all of them.

        Returns:
            The loss, the gradient and the course of the base level.

        Raises:
            ValueError: the arguments do not fit together, or the inner loss does not connect the
                exemplars with the parameters by differentiable operations.
        """
        base_level = BaseLevel(
            parameters=[tf.convert_to_tensor(parameter) for parameter in parameters],
            exemplars=tf.convert_to_tensor(exemplars),
            labels=tf.convert_to_tensor(labels),
            batches=tf.cast(batches, tf.int32),
            step_inputs=tf.nest.map_structure(tf.convert_to_tensor, step_inputs),
            learning=np.ones(len(labels), bool) if learning is None else learning,
        )
        _check(base_level)
        outer_input = tf.nest.map_structure(tf.convert_to_tensor, outer_input)
        result = self._estimate(base_level, outer_input)
        if base_level.learning.all():
            return result
        gradient = result.exemplar_gradient
        mask = tf.reshape(
            tf.cast(base_level.learning, gradient.dtype), [-1] + [1] * (gradient.shape.rank - 1)
        )
        return dataclasses.replace(result, exemplar_gradient=gradient * mask)

    @abc.abstractmethod
    def _estimate(self, base_level: BaseLevel, outer_input: Nest) -> MetaGradientResult:
        """Does what `estimate` says, with arguments converted and checked."""


def check_connected(image_gradient: tf.Tensor | None) -> None:
    """Raises ValueError if the exemplars cannot influence the trained parameters."""
    if image_gradient is None:
        raise ValueError(
            "The inner loss has no differentiable path from the exemplars to the gradient of the "
            "parameters: pass images and parameters through TensorFlow operations only (no NumPy, "
            "no tf.stop_gradient, no rounding or integer cast)."
        )


def _check(base_level: BaseLevel) -> None:
    """Raises ValueError where the arguments of `estimate` do not fit together."""
    exemplars, labels, batches = base_level.exemplars, base_level.labels, base_level.batches
    floats = [exemplars, *base_level.parameters]
    if not base_level.parameters or len({tensor.dtype for tensor in floats}) > 1:
        raise ValueError(
            "Parameters and exemplars must be tensors of one float dtype, got exemplars of "
            f"{exemplars.dtype.name} and parameters of "
            f"{sorted({parameter.dtype.name for parameter in base_level.parameters})}."
        )
    if not exemplars.dtype.is_floating:
        raise ValueError(
            f"Exemplars must be floats to have a gradient, got {exemplars.dtype.name}."
        )
    if labels.shape != exemplars.shape[:1]:
        raise ValueError(
            f"{exemplars.shape[0]} exemplars need labels of shape [{exemplars.shape[0]}], got "
            f"{labels.shape}."
        )
    if base_level.learning.shape != labels.shape:
        raise ValueError(
            f"{exemplars.shape[0]} exemplars need `learning` of shape [{exemplars.shape[0]}], got "
            f"{base_level.learning.shape}."
        )
    if batches.shape.rank != 2 or 0 in batches.shape:
        raise ValueError(
            "Batches must be of shape [T, b] with one step and one row or more, got "
            f"{batches.shape}."
        )
    # On a GPU, tf.gather returns zeros for a row that does not exist.
    lowest, highest = int(tf.reduce_min(batches)), int(tf.reduce_max(batches))
    if lowest < 0 or highest >= exemplars.shape[0]:
        raise ValueError(
            f"Batches name rows {lowest} to {highest} of {exemplars.shape[0]} exemplars."
        )
    for values in tf.nest.flatten(base_level.step_inputs):
        if values.shape[:1] != batches.shape[:1]:
            raise ValueError(
                f"Step inputs need a leading axis of T = {batches.shape[0]}, got {values.shape}."
            )
