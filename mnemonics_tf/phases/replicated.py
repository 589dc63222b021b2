"""Meta-gradients on several replicas: each measures on its part of the outer batch."""

import numpy as np
import tensorflow as tf

from mnemonics_tf import devices
from mnemonics_tf.bilevel.problem import MetaGradientResult
from mnemonics_tf.phases.temporary_model import TemporaryModel


class ReplicatedTemporaryModel:
    """A temporary model on every replica, trained alike and measured on a part of the outer batch.

    The outer loss is a sum over the outer batch, and the meta-gradient is linear in it: the sum of
    the replicas' gradients is the gradient of the whole. Every replica runs the T inner steps
    itself, for theta_T is needed everywhere; what is shared is the work on outer images.

    Args:
        temporary_model: around a model that lives in the strategy's scope.
        strategy: whose replicas share.
    """

    def __init__(self, temporary_model: TemporaryModel, strategy: tf.distribute.Strategy):
        self._temporary_model = temporary_model
        self._strategy = strategy

    def estimate(
        self,
        exemplars: tf.Tensor,
        labels: np.ndarray,
        learning: np.ndarray,
        outer: dict[str, tf.Tensor],
        *key: str | int,
    ) -> MetaGradientResult:
        """Returns what `TemporaryModel.estimate` does, computed by all replicas together."""
        replicas = self._strategy.num_replicas_in_sync
        count = len(outer["label"])
        outer = {**outer, "weight": tf.fill([count], 1.0 / count)}

        def on_replica():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            part = devices.part_of(outer, replica, replicas)
            result = self._temporary_model.estimate(exemplars, labels, learning, part, *key)
            return (
                result.outer_loss,
                result.exemplar_gradient,
                result.inner_losses,
                result.final_parameters,
            )

        loss, gradient, inner_losses, parameters = self._strategy.run(on_replica)

        def total(parts):
            return self._strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None)

        def one_of(parts):
            return self._strategy.experimental_local_results(parts)[0]

        return MetaGradientResult(
            total(loss), total(gradient), one_of(inner_losses), list(map(one_of, parameters))
        )
