"""The bilevel problem, by its two losses, and what an estimate of the meta-gradient answers."""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

Nest = Any  # A tensor, or tuples, lists and dicts of tensors.


@dataclasses.dataclass(frozen=True)
class BilevelProblem:
    """What the base level minimises and how, and what the meta level measures (Eq. 7 and 8).

    The losses are traced into graphs once, so they must be pure functions of their arguments and of
    variables which they capture; these count as constants, and their values are read at every call.

    Attributes:
        inner_loss: (parameters, images [b, ...], labels [b], step input) -> scalar, L_c of Eq. 7b.
        outer_loss: (parameters, outer input) -> scalar, L_c of Eq. 7a.
        learning_rate: alpha_2 of Eq. 8.
        momentum: heavy-ball momentum of the base level; 0 is the paper's plain gradient descent.
        gradient_scale: the exemplar gradient is that of gradient_scale * outer loss, because the
            gradient of a mean loss by one pixel is tiny. The reported outer loss stays unscaled.
    """

    inner_loss: Callable[[list[tf.Tensor], tf.Tensor, tf.Tensor, Nest], tf.Tensor]
    outer_loss: Callable[[list[tf.Tensor], Nest], tf.Tensor]
    learning_rate: float
    momentum: float = 0.0
    gradient_scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class MetaGradientResult:
    """One estimate.

    Attributes:
        outer_loss: scalar, the outer loss of the final parameters.
        exemplar_gradient: [n, ...], derivative of gradient_scale * outer loss by the exemplars.
        inner_losses: [T], the inner loss before each step.
        final_parameters: theta_T, in the order of theta_0.
    """

    outer_loss: tf.Tensor
    exemplar_gradient: tf.Tensor
    inner_losses: tf.Tensor
    final_parameters: list[tf.Tensor]
