"""Classifiers with room for more classes than they have seen, and what corrects their logits."""

import contextlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

#: logits of classes that were not seen yet; minus infinity would make NaN of 0 times it
MASKED = -1e9

#: classifiers have room for a multiple of so many classes
_CAPACITY_STEP = 64


def capacity_for(num_classes: int) -> int:
    """Returns the width of a classifier that is to hold `num_classes`: a multiple of 64."""
    return -(-num_classes // _CAPACITY_STEP) * _CAPACITY_STEP


def first_bound(dimension: int) -> float:
    """Returns how far from zero a classifier's first weights are drawn, 1 / sqrt(d)."""
    return float(1.0 / np.sqrt(dimension))


def seen_columns(num_seen: tf.Tensor | float, capacity: int) -> tf.Tensor:
    """Returns which of a classifier's columns stand for classes seen so far, bool `[capacity]`."""
    return tf.range(capacity, dtype=tf.float32) < num_seen


class GrowingClassifier(keras.layers.Layer):
    """A classifier with room for more classes than it has seen.

    Its weights are as wide as its capacity from the start, so that a graph traced in one phase
    serves all of them. How many classes are old and how many are seen are values of variables;
    columns beyond the seen ones are zero, and whatever leaves the program holds seen ones only.

    Args:
        num_old: number of classes that earlier phases taught.
        num_new: number of classes added.
        seed: for the initial weights of the new classes.
        capacity: how many classes there is room for; None rounds their number up.
        name: of the layer.

    Attributes:
        num_old: number of classes that earlier phases taught.
        num_classes: number of classes seen.
        capacity: number of columns.
        num_seen: `num_classes` as a float32 variable, for graphs.
        first_trained: number of the first class whose weights are trained, as a float32 variable.
    """

    #: the name under which settings choose the class
    kind: str

    def __init__(
        self,
        num_old: int,
        num_new: int,
        seed: int = 0,
        capacity: int | None = None,
        name: str = "classifier",
    ):
        super().__init__(name=name)
        self.num_old = num_old
        self.num_classes = num_old + num_new
        self.capacity = capacity or capacity_for(self.num_classes)
        self.seed = seed
        self._freezes_old = False

    @property
    def num_new(self) -> int:
        """How many classes the current phase added."""
        return self.num_classes - self.num_old

    def build(self, input_shape):
        self.dimension = input_shape[-1]
        self.kernel = self.add_weight(
            name="kernel", shape=(self.dimension, self.capacity), initializer="zeros"
        )
        self.num_seen = tf.Variable(0.0, trainable=False, name="num_seen")
        self.first_trained = tf.Variable(0.0, trainable=False, name="first_trained")
        self.set_classes(self.num_old, self.num_new)
        self.start_new_classes(self.seed)

    def class_variables(self) -> list[keras.Variable]:
        """Returns the variables whose last axis counts classes."""
        return [v for v in self.variables if v.shape[-1:] == (self.capacity,)]

    def set_classes(self, num_old: int, num_new: int) -> None:
        """Says which columns are old and new classes; weights stay as they are."""
        self.num_old, self.num_classes = num_old, num_old + num_new
        self.num_seen.assign(float(self.num_classes))
        self._mark_trained()

    def freeze_old(self) -> None:
        """Takes the old classes' weights out of training, now and in later phases (LUCIR).

        Those who balance a classifier that has been trained work within `all_trained`.
        """
        self._freezes_old = True
        self._mark_trained()

    @contextlib.contextmanager
    def all_trained(self) -> Iterator[None]:
        """Within it the old classes' weights take part in training, frozen or not."""
        self.first_trained.assign(0.0)
        try:
            yield
        finally:
            self._mark_trained()

    def _mark_trained(self) -> None:
        self.first_trained.assign(float(self.num_old if self._freezes_old else 0))

    def trained_columns(self) -> tf.Tensor:
        """Returns 1 for the columns that training changes and 0 for others, float `[capacity]`."""
        columns = tf.range(self.capacity, dtype=tf.float32)
        trained = (columns >= self.first_trained) & (columns < self.num_seen)
        return tf.cast(trained, self.kernel.dtype)

    def start_new_classes(self, seed: int) -> None:
        """Draws first weights for the classes of the current phase; classes after them have none.

        Args:
            seed: they depend on it and on their number alone.
        """
        bound = first_bound(self.dimension)
        uniform = keras.initializers.RandomUniform(-bound, bound, seed=seed)
        drawn = uniform((self.dimension, self.num_new), dtype=self.kernel.dtype)
        kernel = self.kernel.value.numpy().copy()
        kernel[:, self.num_old :] = 0
        kernel[:, self.num_old : self.num_classes] = drawn
        self.kernel.assign(kernel)

    def seen_kernel(self) -> np.ndarray:
        """Returns a copy of the seen classes' weights, `[d, classes]`."""
        return self.kernel.value.numpy()[:, : self.num_classes].copy()

    def set_kernel(self, kernel: np.ndarray) -> None:
        """Sets the seen classes' weights, `[d, classes]`; those of others are zero."""
        margin = self.capacity - self.num_classes
        self.kernel.assign(np.pad(kernel, [(0, 0), (0, margin)]))


class LinearClassifier(GrowingClassifier):
    """Logits z_k = w_k . f + b_k."""

    kind = "linear"

    @property
    def logit_scale(self):
        """What the logits were multiplied by: nothing."""
        return 1.0

    def build(self, input_shape):
        super().build(input_shape)
        self.bias = self.add_weight(name="bias", shape=(self.capacity,), initializer="zeros")

    def call(self, features):
        """Maps features `[n, d]` to logits `[n, capacity]`, in float32 or wider."""
        kernel = self.kernel.value
        return tf.matmul(tf.cast(features, kernel.dtype), kernel) + self.bias.value


class CosineClassifier(GrowingClassifier):
    """Logits z_k = eta * cos(w_k, f) with one learned scale eta that starts at 1.

    Source: Hou et al., Learning a Unified Classifier Incrementally via Rebalancing, CVPR 2019,
    Eq. 3.
    """

    kind = "cosine"

    @property
    def logit_scale(self):
        """The learned scale eta."""
        return self.scale.value

    def build(self, input_shape):
        super().build(input_shape)
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones")

    def cosines(self, features):
        """Maps features `[n, d]` to cos(w_k, f), `[n, capacity]`."""
        kernel = self.kernel.value
        features = tf.math.l2_normalize(tf.cast(features, kernel.dtype), axis=1)
        return tf.matmul(features, tf.math.l2_normalize(kernel, axis=0))

    def call(self, features):
        """Maps features `[n, d]` to logits `[n, capacity]`, in float32 or wider."""
        return self.scale.value * self.cosines(features)


#: gain and offset of a class whose logit stays as it is
NO_CORRECTION = (1.0, 0.0)


class LogitCorrection(keras.layers.Layer):
    """z_k <- a_k z_k + b_k, fixed during training; `NO_CORRECTION` for classes not corrected.

    Source: Wu et al., Large Scale Incremental Learning, CVPR 2019, Eq. 3.
    """

    def build(self, input_shape):
        classes = (input_shape[-1],)
        self.gain = self.add_weight(name="gain", shape=classes, initializer="ones", trainable=False)
        self.offset = self.add_weight(
            name="offset", shape=classes, initializer="zeros", trainable=False
        )

    def call(self, logits):
        """Maps logits `[n, classes]` to corrected ones."""
        return self.gain.value * logits + self.offset.value

    def set(self, labels: Sequence[int], gain: float, offset: float) -> None:
        """Sets z_k <- gain z_k + offset for the classes `labels`."""
        for variable, value in ((self.gain, gain), (self.offset, offset)):
            values = variable.value.numpy().copy()
            values[list(labels)] = value
            variable.assign(values)

    def neutral(self) -> list[tuple[keras.Variable, tf.Tensor]]:
        """Returns its variables, each with the value that corrects nothing."""
        pairs = zip((self.gain, self.offset), NO_CORRECTION, strict=True)
        return [(v, tf.fill(v.shape, tf.constant(value, v.dtype))) for v, value in pairs]


CLASSIFIERS = {layer.kind: layer for layer in (LinearClassifier, CosineClassifier)}
