"""One step of model-level training (Eq. 5, 6), traced once and good for all phases."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf

from mnemonics_tf.arrays import check_shapes
from mnemonics_tf.methods.base import MeanOver
from mnemonics_tf.models.incremental import IncrementalModel, Outputs
from mnemonics_tf.models.layers import statistics_over
from mnemonics_tf.tracing import TracedFunction
from mnemonics_tf.training.optimization import OptimizationSettings, l2_gradients, make_optimizer
from mnemonics_tf.training.precision import LossScale, count_not_finite

#: (batch, outputs, outputs of the old model or None) -> the parts of the loss by name
LossParts = Callable[
    [dict[str, tf.Tensor], Outputs, Outputs | None], Mapping[str, tf.Tensor | MeanOver]
]

#: metrics of a step: this many sums and as many counts. A graph's loop adds them up, and must know
#: their number before the first step is traced.
METRICS = 16


class TrainingStep:
    """Differentiates the loss of a batch and moves the model.

    Args:
        model: what is trained, living in the strategy's scope.
        old_model: the frozen model of the phase before, or None.
        loss_parts: the loss, by part and example.
        settings: of the optimiser.
        strategy: the distribution strategy.
        mixed_precision: `off`, `bfloat16` or `float16`.
        jit_compile: whether XLA compiles the step. Only on one device: several ones talk to each
            other within it, for the statistics of normalisation.

    Attributes:
        compiled: whether XLA compiles it; all batches must have one size then.
        figure_names: of the sums and counts, known once it is traced.
    """

    def __init__(
        self,
        model: IncrementalModel,
        old_model: IncrementalModel | None,
        loss_parts: LossParts,
        settings: OptimizationSettings,
        strategy: tf.distribute.Strategy,
        mixed_precision: str = "off",
        jit_compile: bool = False,
    ):
        self._model = model
        self._old_model = old_model
        self._loss_parts = loss_parts
        self._settings = settings
        self._strategy = strategy
        self._variables = model.trainable_variables
        self._mixed_precision = mixed_precision
        with strategy.scope():
            self._optimizer = make_optimizer(settings, self._variables)
            self._loss_scale = LossScale() if mixed_precision == "float16" else None
        self.compiled = jit_compile and strategy.num_replicas_in_sync == 1
        self.figure_names: list[str] = []
        self._differentiate = _compiled(self.differentiate, self.compiled)
        self._update = _compiled(self._apply, self.compiled)

    def start(self) -> None:
        """Begins a stage: with no velocity and, in float16, the first loss scale."""
        self._optimizer.iterations.assign(0)
        for velocity in self._optimizer.momentums:
            velocity.assign(tf.zeros_like(velocity.value))
        if self._loss_scale:
            self._loss_scale.reset()

    def set_learning_rate(self, learning_rate: float) -> None:
        """Sets the rate of the steps to come."""
        self._optimizer.learning_rate = learning_rate

    def take(self, batch: dict[str, tf.Tensor]) -> tf.Tensor:
        """Takes the step on all replicas, in a graph.

        Args:
            batch: as a `Feed` makes it.

        Returns:
            Sums and counts, `[2 * METRICS]`: quotients of the first half by the second one, added
            up over steps, are the means of the parts of the loss and the accuracy.
        """
        with self._precision():
            gradients, metrics = self._strategy.run(self._differentiate, (batch,))
        if self._loss_scale is None:
            self._strategy.run(self._update, (gradients,))
        else:
            self._apply_if_finite(gradients)
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, metrics, axis=None)

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        """What is traced within it, by however many replicas, computes as settings ask for."""
        with contextlib.ExitStack() as stack:
            if self._mixed_precision != "off":
                for model in filter(None, (self._model, self._old_model)):
                    stack.enter_context(model.activations_in(self._mixed_precision))
            yield

    def differentiate(self, batch: dict[str, tf.Tensor]) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Returns a replica's share of the gradients, and of the metrics.

        Args:
            batch: as a `Feed` makes it.
        """
        images, counted = batch["image"], batch["weight"] > 0
        if self.compiled and not images.shape.is_fully_defined():
            raise ValueError(f"XLA compiles by shape, and batches are of shape {images.shape}")
        factor = self._loss_scale.factor.read_value() if self._loss_scale else None
        with tf.GradientTape() as tape:
            with statistics_over(counted, padded=self.compiled):
                outputs = self._model(images, training=True)
            with tape.stop_recording():
                old_outputs = self._old_model(images) if self._old_model else None
            parts = self._loss_parts(batch, outputs, old_outputs)
            means, metrics = zip(*(_mean_of(part, batch) for part in parts.values()), strict=True)
            loss = tf.add_n(means)
            loss = loss if factor is None else factor * loss
        gradients = [
            # What a loss of a user's own does not ask of the model stays as it is, but for L2.
            tf.zeros_like(variable.value) if gradient is None else gradient
            for variable, gradient in zip(
                self._variables, tape.gradient(loss, self._variables), strict=True
            )
        ]
        if factor is not None:
            gradients = [gradient / factor for gradient in gradients]
        replicas = self._strategy.num_replicas_in_sync
        gradients = l2_gradients(gradients, self._variables, self._settings, replicas)
        right = tf.argmax(outputs.logits, axis=1, output_type=tf.int32) == batch["label"]
        accuracy = _sum_and_count(tf.cast(right, tf.float32), counted)
        self.figure_names = [*parts, "accuracy"]
        return self._of_trained_classes(gradients), _packed([*metrics, accuracy])

    def _of_trained_classes(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """Returns gradients that leave unseen classes, and frozen ones, as they are."""
        classifier = self._model.classifier
        by_class = {id(variable) for variable in classifier.class_variables()}
        columns = classifier.trained_columns()
        return [
            gradient * columns if id(variable) in by_class else gradient
            for gradient, variable in zip(gradients, self._variables, strict=True)
        ]

    def _apply(self, gradients):
        self._optimizer.apply(gradients, self._variables)

    def _apply_if_finite(self, gradients):
        counts = self._strategy.run(count_not_finite, (gradients,))
        finite = self._strategy.reduce(tf.distribute.ReduceOp.SUM, counts, axis=None) == 0

        def update() -> tf.Tensor:
            self._strategy.run(self._update, (gradients,))
            return finite

        # A condition within a replica could not ask the others for their gradients.
        tf.cond(finite, update, lambda: finite)
        self._loss_scale.update(finite)

    @property
    def is_stuck(self) -> bool:
        """Whether, in float16, steps are left out and will be, for gradients are not finite."""
        return self._loss_scale is not None and self._loss_scale.hopeless

    def means(self, totals: np.ndarray) -> dict[str, float]:
        """Returns the means that added-up metrics stand for, by name, and their sum `loss`."""
        sums, counts = totals[:METRICS], totals[METRICS:]
        quotients = sums / np.where(counts == 0, 1.0, counts)
        # Nothing was left out: names and metrics come from the same trace.
        means = {name: float(quotients[i]) for i, name in enumerate(self.figure_names)}
        parts = [value for name, value in means.items() if name != "accuracy"]
        return {**means, "loss": float(sum(parts))}

    def state(self) -> dict[str, np.ndarray]:
        """Returns what steps change beside the model as arrays, for a checkpoint."""
        state = {
            variable.path: self._model.seen_part(variable, velocity.numpy()).copy()
            for variable, velocity in self._velocities()
        }
        if self._loss_scale:
            state |= {v.name.split(":")[0]: v.numpy() for v in self._loss_scale.variables}
        return state

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Goes back to what `state` returned."""
        shapes = {name: array.shape for name, array in self.state().items()}
        check_shapes(state, shapes, "the checkpoint of the optimiser")
        for variable, velocity in self._velocities():
            velocity.assign(self._model.full_width(variable, state[variable.path]))
        for scale in self._loss_scale.variables if self._loss_scale else []:
            scale.assign(state[scale.name.split(":")[0]])

    def _velocities(self) -> list[tuple[keras.Variable, keras.Variable]]:
        """Returns variables and their velocities; Keras makes none where momentum is 0."""
        velocities = self._optimizer.momentums
        return list(zip(self._variables, velocities, strict=True)) if velocities else []


def _mean_of(part: tf.Tensor | MeanOver, batch: dict) -> tuple[tf.Tensor, tuple]:
    """Returns a replica's share of a part's mean, and its sum and count for the metrics."""
    counted = batch["weight"] > 0
    if not isinstance(part, MeanOver):
        return tf.reduce_sum(batch["weight"] * part), _sum_and_count(part, counted)
    total, count = _sum_and_count(part.values, counted & part.examples)
    context = tf.distribute.get_replica_context()
    everywhere = count
    if context is not None and context.num_replicas_in_sync > 1:
        everywhere = context.all_reduce(tf.distribute.ReduceOp.SUM, count)
    return tf.math.divide_no_nan(total, everywhere), (total, count)


def _sum_and_count(values: tf.Tensor, counted: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    counted = tf.cast(counted, values.dtype)
    return tf.reduce_sum(values * counted), tf.reduce_sum(counted)


def _packed(metrics: list[tuple[tf.Tensor, tf.Tensor]]) -> tf.Tensor:
    """Returns sums, then counts, each filled up with zeros: float32 `[2 * METRICS]`."""
    if len(metrics) > METRICS:
        raise ValueError(f"a loss of {len(metrics) - 1} parts; at most {METRICS - 1} are added up")
    halves = tf.stack([tf.stack(half) for half in zip(*metrics, strict=True)])
    return tf.reshape(tf.pad(halves, [[0, 0], [0, METRICS - len(metrics)]]), [-1])


def _compiled(function: Callable, jit_compile: bool) -> Callable:
    if not jit_compile:
        return function
    return TracedFunction(f"compiled {function.__name__.strip('_')}", function, jit_compile=True)
