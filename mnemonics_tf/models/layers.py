"""Layers: weight-transfer convolution with its batch normalisation."""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator

import keras
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
    """Batch normalisation of channels, fast in first order and exact in second order.

    y = gamma * (x - mean) / sqrt(variance + epsilon) + beta

    The layer has three ways to its statistics. Training uses TensorFlow's fused kernel. With
    `exact = True` the batch variance is mean((x - mean)^2) by plain operations: Keras' own layer
    (`tf.nn.moments`) stops the gradient of the mean inside the variance, which makes gradients
    through gradients silently wrong. Inference uses the moving statistics, and so does training
    once the layer is frozen (`trainable = False`), as in Keras.

    Several replicas share their statistics (synchronised normalisation), so that a step does not
    depend on how many devices ran it. The moving variance is the unbiased one, as in PyTorch.

    Args:
        name: of the layer.
        epsilon: is added to the variance.
        momentum: how much of the moving statistics a step keeps.
        axis: of the channels.
        center: whether there is a beta; without it is 0.
        scale: whether there is a gamma; without it is 1.

    Attributes:
        exact: whether batch statistics are taken by plain, twice differentiable operations.
    """

    def __init__(
        self,
        name: str | None = None,
        epsilon: float = EPSILON,
        momentum: float = MOVING_AVERAGE_DECAY,
        axis: int = -1,
        center: bool = True,
        scale: bool = True,
    ):
        super().__init__(name=name, autocast=False)
        self.epsilon = epsilon
        self.momentum = momentum
        self.axis = axis
        self.center = center
        self.scale = scale
        self.exact = False

    def build(self, input_shape):
        shape = (input_shape[self.axis],)
        self._is_last = self.axis in (-1, len(input_shape) - 1)
        self.gamma = self.beta = None
        if self.scale:
            self.gamma = self.add_weight(name="gamma", shape=shape, initializer="ones")
        if self.center:
            self.beta = self.add_weight(name="beta", shape=shape, initializer="zeros")
        self.moving_mean = self.add_weight(
            name="moving_mean", shape=shape, initializer="zeros", trainable=False
        )
        self.moving_variance = self.add_weight(
            name="moving_variance", shape=shape, initializer="ones", trainable=False
        )

    def call(self, inputs, training=False):
        """Returns the normalised inputs, of the same shape, e.g. `[n, h, w, c]`."""
        if self._is_last:
            return self._normalize(inputs, training)
        outputs = self._normalize(keras.ops.moveaxis(inputs, self.axis, -1), training)
        return keras.ops.moveaxis(outputs, -1, self.axis)

    def _normalize(self, inputs, training: bool):
        if not training or not self.trainable:
            scale, offset = self.affine()
            return inputs * tf.cast(scale, inputs.dtype) + tf.cast(offset, inputs.dtype)
        # Where statistics are exact, every replica has the whole batch: there is nothing to share.
        shared = tf.distribute.get_strategy().num_replicas_in_sync > 1 and not self.exact
        plain = inputs.dtype == tf.float64 or inputs.shape.rank != 4
        if self.exact or shared or _COUNTED.padded or plain:
            return self._normalize_by_moments(inputs, shared)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.cast(self._gamma(), tf.float32),
            offset=tf.cast(self._beta(), tf.float32),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The kernel's variance is the unbiased one (n - 1), which is what the moving average keeps.
        self._update_moving_statistics(mean, variance)
        return outputs

    def _normalize_by_moments(self, inputs, shared: bool):
        x = tf.cast(inputs, tf.float32) if inputs.dtype != tf.float64 else inputs
        counted, rank = None, inputs.shape.rank
        if _COUNTED.images is not None and not self.exact:
            counted = tf.cast(_COUNTED.images, x.dtype)[(..., *[None] * (rank - 1))]

        def totals(*values):
            values = values if counted is None else [counted * value for value in values]
            sums = [tf.reduce_sum(value, axis=tuple(range(rank - 1))) for value in values]
            if not shared:
                return sums
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, sums)

        value_sum, count = totals(x, tf.ones_like(x[..., :1]))
        mean = value_sum / count
        (square_sum,) = totals(tf.square(x - mean))
        variance = square_sum / count
        scale = tf.cast(self._gamma(), x.dtype) * tf.math.rsqrt(variance + self.epsilon)
        outputs = (x - mean) * scale + tf.cast(self._beta(), x.dtype)
        self._update_moving_statistics(mean, square_sum / tf.maximum(count - 1, 1))
        return tf.cast(outputs, inputs.dtype)

    def _update_moving_statistics(self, mean, variance):
        for variable, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            value = tf.stop_gradient(tf.cast(value, variable.dtype))
            variable.assign(variable.value * self.momentum + value * (1.0 - self.momentum))

    def _gamma(self) -> tf.Tensor:
        return tf.ones_like(self.moving_mean.value) if self.gamma is None else self.gamma.value

    def _beta(self) -> tf.Tensor:
        return tf.zeros_like(self.moving_mean.value) if self.beta is None else self.beta.value

    def affine(self):
        """Returns scale and offset, each `[c]`: the layer with its moving statistics."""
        scale = self._gamma() * tf.math.rsqrt(self.moving_variance.value + self.epsilon)
        return scale, self._beta() - self.moving_mean.value * scale


@dataclasses.dataclass(frozen=True)
class PlainWeights:
    """Weights of a plain layer: kernel, e.g. `[k, k, in, out]`, and bias `[out]` if it has one."""

    kernel: tf.Variable
    bias: tf.Variable | None


class WeightTransferConvolution(keras.layers.Layer):
    """A convolution whose kernel can be frozen and transferred by scales, then batch normalisation.

    y = norm(conv(x, W * s)), with one scale s per pair of input and output channel, starting at 1.
    Ordinary training moves W and leaves s alone; weight transfer freezes W and moves s, so that the
    switch leaves the outputs, and a graph that computes them, as they are. The shift of weight
    transfer, one number per output channel, is the normalisation's beta: a bias in front of a batch
    normalisation would be cancelled by its mean. Where W is 1 x 1, as in shortcuts, s has as many
    numbers as W, so that nothing of it stays frozen in effect; the authors' code does the same
    (layers that are converted, `ScaledLayer`, have one scale for each output channel there).

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

    def shift(self) -> keras.Variable:
        """Returns the variable that shifts each output channel."""
        return self.normalization.beta

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
