"""Layers: weight-transfer convolution with its batch normalisation, and growing classifiers."""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

# PyTorch's defaults, which the paper's reference code uses (Keras' own are 0.99 and 1e-3).
MOVING_AVERAGE_DECAY = 0.9
EPSILON = 1e-5


class _Counted(threading.local):
    """Which images batch statistics count; of each replica, which has a thread of its own."""

    images = None


_COUNTED = _Counted()


@contextlib.contextmanager
def statistics_over(images: tf.Tensor) -> Iterator[None]:
    """Within it, statistics that replicas share count the images `[n]` that are true.

    A last batch may have fewer images than there are replicas; some then get a placeholder.
    """
    _COUNTED.images = images
    try:
        yield
    finally:
        _COUNTED.images = None


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
        if self.exact or shared or inputs.dtype == tf.float64:
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
        if shared and _COUNTED.images is not None:
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

    Ordinary training (before the switch): y = norm(conv(x, W)).
    Weight transfer (after it):            y = norm(conv(x, W * s)),
    with W frozen and one scale s per pair of input and output channel, starting at 1, so that the
    switch leaves the outputs as they are. The shift of weight transfer, one number per output
    channel, is the normalisation's beta: a bias in front of a batch normalisation would be
    cancelled by its mean.

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
            None but for an export (see `IncrementalModel.plain_convolutions`).
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
        self.transfer = False
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

    def enable_transfer(self) -> None:
        """Freezes the kernel and lets the scales learn from here on; the outputs do not change."""
        self.transfer = True
        self.kernel.trainable = False
        self.transfer_scale.trainable = True

    def effective_kernel(self):
        """Returns W, or W * s after the switch: `[k, k, in, out]`."""
        kernel = self.kernel.value
        return kernel * self.transfer_scale.value if self.transfer else kernel

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


class GrowingClassifier(keras.layers.Layer):
    """A classifier over old and new classes that keeps the old classes' weights apart.

    Old and new weights are two variables, so that a method may freeze the old ones; logits come in
    label order, old classes first.

    Args:
        num_old: number of classes that earlier phases taught.
        num_new: number of classes added.
        seed: for the initial weights of the new classes.
        name: of the layer.
    """

    #: the name under which settings choose the class
    kind: str

    def __init__(self, num_old: int, num_new: int, seed: int = 0, name: str = "classifier"):
        super().__init__(name=name)
        self.num_old = num_old
        self.num_new = num_new
        self.seed = seed

    @property
    def num_classes(self) -> int:
        """How many classes the logits cover."""
        return self.num_old + self.num_new

    def build(self, input_shape):
        dimension = input_shape[-1]
        bound = 1.0 / np.sqrt(dimension)
        uniform = keras.initializers.RandomUniform(-bound, bound, seed=self.seed)
        self.old_kernel = None
        if self.num_old:
            self.old_kernel = self.add_weight(
                name="old_kernel", shape=(dimension, self.num_old), initializer="zeros"
            )
        self.new_kernel = self.add_weight(
            name="new_kernel", shape=(dimension, self.num_new), initializer=uniform
        )

    def kernel(self):
        """Returns the weights of all classes, `[d, classes]`."""
        if self.old_kernel is None:
            return self.new_kernel.value
        return tf.concat([self.old_kernel.value, self.new_kernel.value], axis=1)

    def set_kernel(self, kernel: np.ndarray) -> None:
        """Sets the weights of all classes from `[d, classes]`."""
        if self.old_kernel is not None:
            self.old_kernel.assign(kernel[:, : self.num_old])
        self.new_kernel.assign(kernel[:, self.num_old :])

    def freeze_old(self) -> None:
        """Takes the old classes' weights out of training (LUCIR)."""
        if self.old_kernel is not None:
            self.old_kernel.trainable = False

    def copy_shared(self, other: "GrowingClassifier") -> None:
        """Copies from a smaller classifier what the growth must not change."""
        kernel = self.kernel().numpy().copy()
        kernel[:, : other.num_classes] = other.kernel().numpy()
        self.set_kernel(kernel)


class LinearClassifier(GrowingClassifier):
    """Logits z_k = w_k . f + b_k."""

    kind = "linear"

    @property
    def logit_scale(self):
        """What the logits were multiplied by: nothing."""
        return 1.0

    def build(self, input_shape):
        super().build(input_shape)
        self.bias = self.add_weight(name="bias", shape=(self.num_classes,), initializer="zeros")

    def copy_shared(self, other: "LinearClassifier") -> None:
        super().copy_shared(other)
        bias = self.bias.value.numpy().copy()
        bias[: other.num_classes] = other.bias.value.numpy()
        self.bias.assign(bias)

    def call(self, features):
        """Maps features `[n, d]` to logits `[n, classes]`, in float32 or wider."""
        kernel = self.kernel()
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

    def copy_shared(self, other: "CosineClassifier") -> None:
        super().copy_shared(other)
        self.scale.assign(other.scale.value)

    def cosines(self, features):
        """Maps features `[n, d]` to cos(w_k, f), `[n, classes]`."""
        kernel = self.kernel()
        features = tf.math.l2_normalize(tf.cast(features, kernel.dtype), axis=1)
        return tf.matmul(features, tf.math.l2_normalize(kernel, axis=0))

    def call(self, features):
        """Maps features `[n, d]` to logits `[n, classes]`, in float32 or wider."""
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

    def copy_shared(self, other: "LogitCorrection") -> None:
        """Copies the corrections of the classes so far."""
        for mine, theirs in ((self.gain, other.gain), (self.offset, other.offset)):
            values = mine.value.numpy().copy()
            values[: theirs.shape[0]] = theirs.value.numpy()
            mine.assign(values)


CLASSIFIERS = {layer.kind: layer for layer in (LinearClassifier, CosineClassifier)}
