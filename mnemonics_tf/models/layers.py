"""Layers: weight-transfer convolution with its batch normalisation, and growing classifiers."""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

# PyTorch's defaults, which the paper's reference code uses (Keras' own are 0.99 and 1e-3).
MOVING_AVERAGE_DECAY = 0.9
EPSILON = 1e-5


class _Counted(threading.local):
    """Which images batch statistics count; of each replica, which has a thread of its own."""

    images = None
    padded = False


_COUNTED = _Counted()


@contextlib.contextmanager
def statistics_over(images: tf.Tensor, padded: bool = False) -> Iterator[None]:
    """Within it, batch statistics count the images that are true.

    A last batch may have fewer images than there are replicas, some of which then get a
    placeholder; or it is filled up to the size of the others.

    Args:
        images: bool `[n]`.
        padded: whether one device's batch may hold placeholders too. The fused kernel, which
            counts all images, is left for plain operations then.
    """
    _COUNTED.images, _COUNTED.padded = images, padded
    try:
        yield
    finally:
        _COUNTED.images, _COUNTED.padded = None, False


class BatchNormalization(keras.layers.Layer):
    """Batch normalisation over the last axis, fast in first order and exact in second order.

    y = gamma * (x - mean) / sqrt(variance + epsilon) + beta

    The layer has three ways to its statistics. Training uses TensorFlow's fused kernel. With
    `exact = True` the batch variance is mean((x - mean)^2) by plain operations: Keras' own layer
    (`tf.nn.moments`) stops the gradient of the mean inside the variance, which makes gradients
    through gradients silently wrong. Inference uses the moving statistics.

    Several replicas share their statistics (synchronised normalisation), so that a step does not
    depend on how many devices ran it.

    Attributes:
        exact: whether batch statistics are taken by plain, twice differentiable operations.
    """

    def __init__(self, name: str | None = None):
        super().__init__(name=name, autocast=False)
        self.exact = False

    def build(self, input_shape):
        shape = (input_shape[-1],)
        self.gamma = self.add_weight(name="gamma", shape=shape, initializer="ones")
        self.beta = self.add_weight(name="beta", shape=shape, initializer="zeros")
        self.moving_mean = self.add_weight(
            name="moving_mean", shape=shape, initializer="zeros", trainable=False
        )
        self.moving_variance = self.add_weight(
            name="moving_variance", shape=shape, initializer="ones", trainable=False
        )

    def call(self, inputs, training=False):
        """Returns the normalised inputs, of the same shape `[n, h, w, c]`."""
        if not training:
            scale, offset = self.affine()
            return inputs * scale + offset
        # Where statistics are exact, every replica has the whole batch: there is nothing to share.
        shared = tf.distribute.get_strategy().num_replicas_in_sync > 1 and not self.exact
        if self.exact or shared or _COUNTED.padded or inputs.dtype == tf.float64:
            return self._normalize_by_moments(inputs, shared)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.cast(self.gamma, tf.float32),
            offset=tf.cast(self.beta, tf.float32),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=EPSILON,
            is_training=True,
        )
        # The kernel's variance is the unbiased one (n - 1), which is what the moving average keeps.
        self._update_moving_statistics(mean, variance)
        return outputs

    def _normalize_by_moments(self, inputs, shared: bool):
        x = tf.cast(inputs, tf.float32) if inputs.dtype != tf.float64 else inputs
        counted = None
        if _COUNTED.images is not None and not self.exact:
            counted = tf.cast(_COUNTED.images, x.dtype)[:, None, None, None]

        def totals(*values):
            values = values if counted is None else [counted * value for value in values]
            sums = [tf.reduce_sum(value, axis=(0, 1, 2)) for value in values]
            if not shared:
                return sums
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, sums)

        value_sum, count = totals(x, tf.ones_like(x[..., :1]))
        mean = value_sum / count
        (square_sum,) = totals(tf.square(x - mean))
        variance = square_sum / count
        scale = tf.cast(self.gamma, x.dtype) * tf.math.rsqrt(variance + EPSILON)
        outputs = (x - mean) * scale + tf.cast(self.beta, x.dtype)
        self._update_moving_statistics(mean, square_sum / tf.maximum(count - 1, 1))
        return tf.cast(outputs, inputs.dtype)

    def _update_moving_statistics(self, mean, variance):
        for variable, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            value = tf.stop_gradient(tf.cast(value, variable.dtype))
            variable.assign(
                variable.value * MOVING_AVERAGE_DECAY + value * (1.0 - MOVING_AVERAGE_DECAY)
            )

    def affine(self):
        """Returns scale and offset, each `[c]`: the layer with its moving statistics."""
        scale = self.gamma.value * tf.math.rsqrt(self.moving_variance.value + EPSILON)
        return scale, self.beta.value - self.moving_mean.value * scale


@dataclasses.dataclass(frozen=True)
class PlainWeights:
    """Weights of a plain convolution: kernel `[k, k, in, out]` and bias `[out]`."""

    kernel: tf.Variable
    bias: tf.Variable


class WeightTransferConvolution(keras.layers.Layer):
    """A convolution whose kernel can be frozen and transferred by scales, then batch normalisation.

    y = norm(conv(x, W * s)), with one scale s per pair of input and output channel, starting at 1.
    Ordinary training moves W and leaves s alone; weight transfer freezes W and moves s, so that the
    switch leaves the outputs, and a graph that computes them, as they are. The shift of weight
    transfer, one number per output channel, is the normalisation's beta: a bias in front of a batch
    normalisation would be cancelled by its mean.

    In inference the normalisation is folded into the kernel, y = conv(x, W * s * a) + b, which is
    faster than two steps and takes less memory inside the unrolled inner loop.

    Source: paper, Section 5.1 (weight transfer operations); Sun et al., Meta-Transfer Learning,
    CVPR 2019, Eq. 2; Perez et al., FiLM, AAAI 2018.

    Args:
        filters: number of output channels.
        kernel_size: height and width of the kernel.
        stride: step in both directions.
        seed: for He's initialisation (fan-out mode).
        name: of the layer.

    Attributes:
        plain_weights: weights that inference uses as they are instead of folding at every call;
            None but for an export (see `IncrementalModel.for_export`).
        activation_dtype: what inputs are cast to; None leaves them as they are. The weights are
            cast likewise when they are used, and stay what they are themselves.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        stride: int = 1,
        seed: int = 0,
        name: str | None = None,
    ):
        super().__init__(name=name, autocast=False)
        self.filters = filters
        self.kernel_size = kernel_size
        self.stride = stride
        self.seed = seed
        self.plain_weights: PlainWeights | None = None
        self.activation_dtype: str | None = None
        self.normalization = BatchNormalization(name="normalization")

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.kernel_size, self.kernel_size, input_shape[-1], self.filters),
            initializer=keras.initializers.VarianceScaling(
                2.0, mode="fan_out", distribution="untruncated_normal", seed=self.seed
            ),
        )
        self.transfer_scale = self.add_weight(
            name="transfer_scale", shape=(1, 1, input_shape[-1], self.filters), initializer="ones"
        )
        self.transfer_scale.trainable = False
        self.normalization.build((*input_shape[:-1], self.filters))

    def compute_output_shape(self, input_shape):
        n, height, width, _ = input_shape
        return (n, -(-height // self.stride), -(-width // self.stride), self.filters)

    def set_transfer(self, transfer: bool) -> None:
        """Lets the scales learn and freezes the kernel, or the other way round."""
        self.kernel.trainable = not transfer
        self.transfer_scale.trainable = transfer

    def effective_kernel(self):
        """Returns W * s: `[k, k, in, out]`."""
        return self.kernel.value * self.transfer_scale.value

    def folded(self):
        """Returns kernel `[k, k, in, out]` and bias `[out]` of the plain convolution it equals."""
        scale, offset = self.normalization.affine()
        return self.effective_kernel() * scale, offset

    def call(self, inputs, training=False):
        """Maps `[n, h, w, in]` to `[n, h / stride, w / stride, out]`."""
        if self.activation_dtype:
            inputs = tf.cast(inputs, self.activation_dtype)
        if training:
            return self.normalization(
                self._convolve(inputs, self.effective_kernel()), training=True
            )
        if self.plain_weights is None:
            kernel, bias = self.folded()
        else:
            kernel, bias = self.plain_weights.kernel, self.plain_weights.bias
        return tf.nn.bias_add(self._convolve(inputs, kernel), tf.cast(bias, inputs.dtype))

    def _convolve(self, inputs, kernel):
        # Padding is symmetric, (k - 1) / 2 on each side, as in PyTorch. With a stride TensorFlow's
        # SAME pads one side more, so the padding is explicit there, and a step of its own: the
        # convolution's own explicit padding takes three times as long on a CPU.
        padding = "SAME"
        if self.stride > 1:
            pad = (self.kernel_size - 1) // 2
            padding = "VALID"
            if pad:
                inputs = tf.pad(inputs, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        return tf.nn.conv2d(inputs, tf.cast(kernel, inputs.dtype), self.stride, padding)


#: logits of classes that were not seen yet; minus infinity would make NaN of 0 times it
MASKED = -1e9

#: classifiers have room for a multiple of so many classes
_CAPACITY_STEP = 64


def capacity_for(num_classes: int) -> int:
    """Returns the width of a classifier that is to hold `num_classes`: a multiple of 64."""
    return -(-num_classes // _CAPACITY_STEP) * _CAPACITY_STEP


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
        """Takes the old classes' weights out of training, now and in later phases (LUCIR)."""
        self._freezes_old = True
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
        bound = 1.0 / np.sqrt(self.dimension)
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

    def copy_shared(self, other: "GrowingClassifier") -> None:
        """Copies from a classifier with fewer classes what more of them must not change."""
        by_class = {id(variable) for variable in self.class_variables()}
        for mine, theirs in zip(self.variables, other.variables, strict=True):
            values = theirs.value.numpy()
            if id(mine) in by_class:
                values = _resized(values[..., : other.num_classes], mine.value.numpy())
            mine.assign(values)


def _resized(values: np.ndarray, wider: np.ndarray) -> np.ndarray:
    """Returns a copy of `wider` that begins, along the last axis, with `values`."""
    resized = wider.copy()
    resized[..., : values.shape[-1]] = values
    return resized


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


class LogitCorrection(keras.layers.Layer):
    """z_k <- a_k z_k + b_k, fixed during training; a = 1 and b = 0 for classes not corrected.

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

    def copy_shared(self, other: "LogitCorrection") -> None:
        """Copies the corrections of a model with room for fewer classes."""
        for mine, theirs in zip(self.variables, other.variables, strict=True):
            mine.assign(_resized(theirs.value.numpy(), mine.value.numpy()))


CLASSIFIERS = {layer.kind: layer for layer in (LinearClassifier, CosineClassifier)}
