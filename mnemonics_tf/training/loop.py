"""The model-level loop (Eq. 5, 6): many steps in one graph, under a distribution strategy."""

import contextlib
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from mnemonics_tf import devices
from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.pipeline import Pipeline
from mnemonics_tf.models.incremental import IncrementalModel, Outputs
from mnemonics_tf.models.layers import statistics_over
from mnemonics_tf.run_directory import check_shapes
from mnemonics_tf.training.optimization import OptimizationSettings, l2_gradients, make_optimizer
from mnemonics_tf.training.precision import LossScale, count_not_finite

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
        mixed_precision: one of `PRECISIONS`.
        jit_compile: whether XLA compiles the step. Only on one device: several ones talk to each
            other within it, for the statistics of normalisation.

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
        mixed_precision: str = "off",
        jit_compile: bool = False,
    ):
        self._model = model
        self._old_model = old_model
        self._loss_parts = loss_parts
        self.settings = settings
        self._pipeline = pipeline
        self._strategy = strategy
        self._variables = model.trainable_variables
        self._mixed_precision = mixed_precision
        with strategy.scope():
            self.optimizer = make_optimizer(settings, self._variables)
            self._loss_scale = LossScale() if mixed_precision == "float16" else None
        self._part_names: list[str] = []
        jit_compile = jit_compile and strategy.num_replicas_in_sync == 1
        self._differentiate = _compiled(self._gradients, jit_compile)
        self._update = _compiled(self._apply, jit_compile)
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
        iterator = devices.iterate(self._strategy, batches)
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
        with self._precision():
            gradients, figures = self._strategy.run(self._differentiate, (batch,))
        if self._loss_scale is None:
            self._strategy.run(self._update, (gradients,))
        else:
            self._apply_if_finite(gradients)
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, figures, axis=None)

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        """What is traced within it, by however many replicas, computes as settings ask for."""
        with contextlib.ExitStack() as stack:
            if self._mixed_precision != "off":
                for model in filter(None, (self._model, self._old_model)):
                    stack.enter_context(model.activations_in(self._mixed_precision))
            yield

    def _gradients(self, batch):
        """Returns a replica's share of the gradients, and of the figures."""
        weight = batch["weight"]
        factor = self._loss_scale.factor.read_value() if self._loss_scale else None
        with tf.GradientTape() as tape:
            with statistics_over(weight > 0):
                outputs = self._model(batch["image"], training=True)
            old_outputs = self._old_model(batch["image"]) if self._old_model else None
            parts = self._loss_parts(batch, outputs, old_outputs)
            parts = {name: tf.reduce_sum(weight * part) for name, part in parts.items()}
            loss = tf.add_n(list(parts.values()))
            loss = loss if factor is None else factor * loss
        gradients = tape.gradient(loss, self._variables)
        if factor is not None:
            gradients = [gradient / factor for gradient in gradients]
        replicas = self._strategy.num_replicas_in_sync
        gradients = l2_gradients(gradients, self._variables, self.settings, replicas)
        predicted = tf.argmax(outputs.logits, axis=1, output_type=tf.int32)
        right = tf.reduce_sum(weight * tf.cast(predicted == batch["label"], tf.float32))
        self._part_names = list(parts)
        return gradients, tf.stack([*parts.values(), right])

    def _apply(self, gradients):
        self.optimizer.apply(gradients, self._variables)

    def _apply_if_finite(self, gradients):
        counts = self._strategy.run(count_not_finite, (gradients,))
        finite = self._strategy.reduce(tf.distribute.ReduceOp.SUM, counts, axis=None) == 0
        # A condition within a replica could not ask the others for their gradients.
        if finite:
            self._strategy.run(self._apply, (gradients,))
        self._loss_scale.update(finite)

    def _state_variables(self) -> list[keras.Variable | tf.Variable]:
        extra = self._loss_scale.variables if self._loss_scale else []
        return [*self.optimizer.variables, *extra]

    def state(self) -> dict[str, np.ndarray]:
        """Returns what an epoch changes beside the model as arrays, for a checkpoint."""
        variables = enumerate(self._state_variables())
        return {f"{i:04d}": variable.numpy().copy() for i, variable in variables}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Goes back to what `state` returned."""
        shapes = {f"{i:04d}": v.shape for i, v in enumerate(self._state_variables())}
        check_shapes(state, shapes, "the checkpoint of the optimiser")
        for i, variable in enumerate(self._state_variables()):
            variable.assign(state[f"{i:04d}"])


def _compiled(function: Callable, jit_compile: bool) -> Callable:
    return tf.function(function, jit_compile=True) if jit_compile else function
