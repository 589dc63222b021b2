"""The model-level loop (Eq. 5, 6): many steps in one graph, under a distribution strategy."""

import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.pipeline import Pipeline
from mnemonics_tf.models.incremental import IncrementalModel, Outputs
from mnemonics_tf.run_directory import check_shapes
from mnemonics_tf.training.optimization import OptimizationSettings, l2_gradients, make_optimizer

#: (batch, outputs, outputs of the old model or None) -> name to `[b]`
LossParts = Callable[[dict, Outputs, Outputs | None], dict[str, tf.Tensor]]

#: steps in one call of the graph; an epoch of CIFAR-100 is one call
STEPS_PER_CALL = 500


class TrainingLoop:
    """Trains a model on an image set, epoch by epoch.

    Args:
        model: what is trained, living in the strategy's scope.
        old_model: the frozen model of the phase before, or None.
        loss_parts: the loss, by part and example.
        settings: of the optimiser.
        pipeline: makes batches.
        strategy: the distribution strategy.

    Attributes:
        settings: of the optimiser.
        optimizer: Keras' own, built for the model.
    """

    def __init__(
        self,
        model: IncrementalModel,
        old_model: IncrementalModel | None,
        loss_parts: LossParts,
        settings: OptimizationSettings,
        pipeline: Pipeline,
        strategy: tf.distribute.Strategy,
    ):
        self._model = model
        self._old_model = old_model
        self._loss_parts = loss_parts
        self.settings = settings
        self._pipeline = pipeline
        self._strategy = strategy
        self._variables = model.trainable_variables
        with strategy.scope():
            self.optimizer = make_optimizer(settings, self._variables)
        self._part_names: list[str] = []
        self._run_steps = tf.function(self._steps)

    def run_epoch(self, images: ImageSet, epoch: int, *key: str | int) -> dict[str, float]:
        """Trains one epoch and returns what it saw.

        Args:
            images: the training set.
            epoch: from 0; decides the learning rate, and with `key` shuffling and augmentation.
            *key: names the stage, e.g. `("train", phase)`.

        Returns:
            Mean loss parts, `loss`, `accuracy` on the augmented training images, `learning_rate`
            and `images_per_second`.

        Raises:
            FloatingPointError: if the loss is not finite.
        """
        started = time.perf_counter()
        learning_rate = self.settings.learning_rate_at(epoch)
        self.optimizer.learning_rate = learning_rate
        batch_size = self.settings.batch_size
        batches = self._pipeline.training_batches(images, batch_size, *key, epoch)
        iterator = iter(self._strategy.experimental_distribute_dataset(batches))
        steps = -(-len(images) // batch_size)
        totals = 0.0
        for start in range(0, steps, STEPS_PER_CALL):
            count = min(STEPS_PER_CALL, steps - start)
            totals += self._run_steps(iterator, tf.constant(count)).numpy()
        means = dict(zip([*self._part_names, "accuracy"], totals / steps, strict=True))
        loss = float(sum(means[name] for name in self._part_names))
        if not np.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} in epoch {epoch} of {'/'.join(map(str, key))} "
                f"at learning rate {learning_rate}: lower the learning rate"
            )
        return {
            **{name: float(value) for name, value in means.items()},
            "loss": loss,
            "learning_rate": learning_rate,
            "images_per_second": len(images) / (time.perf_counter() - started),
        }

    def _steps(self, iterator, count):
        totals = self._step(next(iterator))
        for _ in tf.range(count - 1):
            totals += self._step(next(iterator))
        return totals

    def _step(self, batch):
        parts = self._strategy.run(self._replica_step, (batch,))
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None)

    def _replica_step(self, batch):
        weight = batch["weight"]
        with tf.GradientTape() as tape:
            outputs = self._model(batch["image"], training=True)
            old_outputs = self._old_model(batch["image"]) if self._old_model else None
            parts = self._loss_parts(batch, outputs, old_outputs)
            parts = {name: tf.reduce_sum(weight * part) for name, part in parts.items()}
            loss = tf.add_n(list(parts.values()))
        gradients = tape.gradient(loss, self._variables)
        replicas = self._strategy.num_replicas_in_sync
        gradients = l2_gradients(gradients, self._variables, self.settings, replicas)
        self.optimizer.apply(gradients, self._variables)
        predicted = tf.argmax(outputs.logits, axis=1, output_type=tf.int32)
        right = tf.reduce_sum(weight * tf.cast(predicted == batch["label"], tf.float32))
        self._part_names = list(parts)
        return tf.stack([*parts.values(), right])

    def state(self) -> dict[str, np.ndarray]:
        """Returns the optimiser's variables as arrays, for a checkpoint."""
        variables = enumerate(self.optimizer.variables)
        return {f"{i:04d}": variable.value.numpy().copy() for i, variable in variables}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Sets the optimiser's variables to what `state` returned."""
        shapes = {f"{i:04d}": v.shape for i, v in enumerate(self.optimizer.variables)}
        check_shapes(state, shapes, "the checkpoint of the optimiser")
        for i, variable in enumerate(self.optimizer.variables):
            variable.assign(state[f"{i:04d}"])
