"""SGD with momentum, L2 in the gradient, and step schedules."""

import dataclasses
from collections.abc import Sequence

import keras
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class OptimizationSettings:
    """One training stage's optimiser.

    Attributes:
        epochs: passes over the stage's data.
        learning_rate: alpha_1 at the start.
        milestones: epochs after which the rate is multiplied by `decay`.
        decay: factor at each milestone.
        momentum: of SGD.
        weight_decay: L2 factor, added to the gradient before momentum.
        decay_normalization: whether L2 also acts on the normalisation's scale and offset.
        batch_size: over all replicas.
    """

    epochs: int
    learning_rate: float
    milestones: tuple[int, ...]
    decay: float
    momentum: float
    weight_decay: float
    decay_normalization: bool
    batch_size: int

    @property
    def fixed(self) -> tuple:
        """What a traced step takes as given; the rest are values that it is told."""
        return (self.momentum, self.weight_decay, self.decay_normalization, self.batch_size)

    def learning_rate_at(self, epoch: int) -> float:
        """Returns the rate of epoch `epoch` (from 0)."""
        passed = sum(epoch >= milestone for milestone in self.milestones)
        return self.learning_rate * self.decay**passed


def make_optimizer(settings: OptimizationSettings, variables: Sequence[keras.Variable]):
    """Returns Keras' SGD with momentum, built for `variables`.

    Its own `weight_decay` stays unused: Keras decouples it from momentum, which at momentum 0.9
    makes it about ten times weaker than the L2 of the paper's reference code; `l2_gradients` adds
    that one, which there acts on batch normalisation's scale and offset too.

    Departure from the releases, which use PyTorch's SGD: Keras' velocity holds the learning rate
    (m <- mu m - lr g). After a milestone it goes on at the old rate until it has decayed, for some
    fifty steps at mu = 0.9.
    """
    optimizer = keras.optimizers.SGD(
        float(settings.learning_rate), momentum=float(settings.momentum)
    )
    optimizer.build(list(variables))
    return optimizer


def l2_gradients(
    gradients: Sequence[tf.Tensor],
    variables: Sequence[keras.Variable],
    settings: OptimizationSettings,
    replicas: int = 1,
) -> list[tf.Tensor]:
    """Returns gradients + weight_decay * variables, where L2 applies.

    Departure from the releases of LUCIR and of the paper, which decay all weights: the scale and
    offset of batch normalisation are spared unless `decay_normalization` is set.

    Args:
        gradients: one per variable.
        variables: what is trained.
        settings: of the stage.
        replicas: how many replicas sum their gradients; each adds its share.
    """
    factor = settings.weight_decay / replicas
    spared = () if settings.decay_normalization else ("gamma", "beta")
    return [
        gradient if variable.name in spared else gradient + factor * variable.value
        for gradient, variable in zip(gradients, variables, strict=True)
    ]
