"""Objectives on several replicas: each measures on its part of the outer batch."""

import numpy as np
import tensorflow as tf

from mnemonics_tf import devices
from mnemonics_tf.bilevel.objectives.base import Objective


class Replicated:
    """An objective on every replica, of the same exemplars and a part of the outer batch.

    The meta loss is a sum over the outer batch, and its gradient is linear in it: the sum of the
    replicas' gradients is the gradient of the whole. Every replica runs the T inner steps itself,
    for theta_T is needed everywhere; what is shared is the work on outer images.

    Args:
        objective: around a model that lives in the strategy's scope.
        strategy: whose replicas share.
    """

    def __init__(self, objective: Objective, strategy: tf.distribute.Strategy):
        self._objective = objective
        self._strategy = strategy

    def value_and_gradient(
        self,
        exemplars: tf.Tensor,
        labels: np.ndarray,
        learning: np.ndarray,
        outer: dict[str, tf.Tensor],
        *key: str | int,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        replicas = self._strategy.num_replicas_in_sync
        count = len(outer["label"])
        outer = {**outer, "weight": tf.fill([count], 1.0 / count)}

        def on_replica():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            part = devices.part_of(outer, replica, replicas)
            return self._objective.value_and_gradient(exemplars, labels, learning, part, *key)

        value, gradient = (
            self._strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None)
            for parts in self._strategy.run(on_replica)
        )
        return value, gradient
