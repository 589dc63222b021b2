"""Layers that take the place of Keras' own in a user's model, with the same outputs."""

import keras
import numpy as np
import tensorflow as tf

from mnemonics_tf.models.layers import BatchNormalization, PlainWeights


class ScaledLayer(keras.layers.Layer):
    """A layer whose kernel can be frozen and transferred by scales: act(op(x, W * s) + b).

    Ordinary training moves W and b and leaves s, which starts at 1, alone; weight transfer freezes
    W and moves s and b. Where the layer has no bias, and no normalisation behind it whose beta is
    the shift, weight transfer gets a shift of its own, which starts at 0.

    The paper's scale has a number for every pair of an input and an output channel, over which W
    has k x k. Where W is 1 x 1, or a matrix, there are as many such pairs as numbers in W, and a
    scale for each would make every W of every other: nothing would be frozen. There, and where the
    convolution is depthwise and an output channel has one input channel only, the scale is one for
    each output channel.

    Source: paper, Section 5.1 (weight transfer operations); Sun et al., Meta-Transfer Learning,
    CVPR 2019, Eq. 2.

    Args:
        source: the Keras layer, built; its weights are copied.
        name: of the layer.
        shifts: whether the following layers shift each output channel, so that a layer without
            bias needs no shift of its own.

    Attributes:
        frozen: whether the source was not trainable, in which case nothing is trained here.
        bias: `[out]`, or None.
        transfer_shift: `[out]`, or None.
        activation_dtype: what inputs are cast to; None leaves them as they are.
        plain_weights: weights that are used as they are instead of W * s; None but for an export.
    """

    def __init__(self, source: keras.layers.Layer, name: str, shifts: bool):
        super().__init__(name=name, autocast=False, trainable=source.trainable)
        self.frozen = not source.trainable
        self.activation = source.activation
        self.activation_dtype: str | None = None
        self.plain_weights: PlainWeights | None = None
        kernel = keras.ops.convert_to_numpy(source.kernel)
        self.kernel = self._weight("kernel", kernel)
        self.transfer_scale = self._weight("transfer_scale", np.ones(self.scale_shape(kernel)))
        self.bias = self.transfer_shift = None
        if source.use_bias:
            self.bias = self._weight("bias", keras.ops.convert_to_numpy(source.bias))
        elif not shifts:
            self.transfer_shift = self._weight("transfer_shift", np.zeros(self.filters))
        self.set_transfer(False)

    def _weight(self, name: str, value: np.ndarray) -> keras.Variable:
        variable = self.add_weight(name=name, shape=value.shape, initializer="zeros")
        variable.assign(value)
        return variable

    @property
    def filters(self) -> int:
        """Number of output channels."""
        return self.kernel.shape[-1]

    @staticmethod
    def scale_shape(kernel: np.ndarray) -> tuple[int, ...]:
        """Returns the shape of the scale of a kernel."""
        raise NotImplementedError

    def operate(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Returns op(x, kernel)."""
        raise NotImplementedError

    def set_transfer(self, transfer: bool) -> None:
        """Lets scale and shift learn and freezes the kernel, or the other way round."""
        self.kernel.trainable = not transfer and not self.frozen
        for variable in (self.transfer_scale, self.transfer_shift):
            if variable is not None:
                variable.trainable = transfer and not self.frozen

    def effective_kernel(self) -> tf.Tensor:
        """Returns W * s, of the shape of W."""
        return self.kernel.value * self.transfer_scale.value

    def shift(self) -> keras.Variable | None:
        """Returns the variable that shifts each output channel, if the layer has one."""
        return self.transfer_shift if self.bias is None else self.bias

    def folded(self) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Returns kernel and bias of the plain layer that it equals."""
        shift = self.shift()
        return self.effective_kernel(), None if shift is None else shift.value

    def call(self, inputs, training=False):
        """Maps `[n, ..., in]` to `[n, ..., out]`."""
        if self.activation_dtype:
            inputs = tf.cast(inputs, self.activation_dtype)
        if self.plain_weights is None:
            kernel, bias = self.folded()
        else:
            kernel, bias = self.plain_weights.kernel, self.plain_weights.bias
        outputs = self.operate(inputs, tf.cast(kernel, inputs.dtype))
        if bias is not None:
            outputs += tf.cast(bias, inputs.dtype)
        return self.activation(outputs)


class ScaledConvolution(ScaledLayer):
    """A `Conv2D` with weight transfer; kernel `[k, k, in / groups, out]`."""

    def __init__(self, source: keras.layers.Conv2D, name: str, shifts: bool):
        super().__init__(source, name, shifts)
        self._how = {
            "strides": tuple(source.strides),
            "padding": source.padding,
            "dilation_rate": tuple(source.dilation_rate),
            "data_format": "channels_last",
        }

    @staticmethod
    def scale_shape(kernel: np.ndarray) -> tuple[int, ...]:
        """Returns `[1, 1, in, out]`, and `[1, 1, 1, out]` for a 1 x 1 kernel."""
        height, width, pairs, filters = kernel.shape
        return (1, 1, 1 if height * width == 1 else pairs, filters)

    def operate(self, inputs, kernel):
        return keras.ops.conv(inputs, kernel, **self._how)


class ScaledDepthwiseConvolution(ScaledConvolution):
    """A `DepthwiseConv2D` with weight transfer; kernel `[k, k, in, multiplier]`."""

    @property
    def filters(self) -> int:
        """Number of output channels."""
        return self.kernel.shape[-2] * self.kernel.shape[-1]

    @staticmethod
    def scale_shape(kernel: np.ndarray) -> tuple[int, ...]:
        """Returns `[1, 1, in, multiplier]`: one scale for each output channel."""
        return (1, 1, *kernel.shape[2:])

    def operate(self, inputs, kernel):
        return keras.ops.depthwise_conv(inputs, kernel, **self._how)


class ScaledDense(ScaledLayer):
    """A `Dense` with weight transfer; kernel `[in, out]`."""

    @staticmethod
    def scale_shape(kernel: np.ndarray) -> tuple[int, ...]:
        """Returns `[1, out]`."""
        return (1, kernel.shape[-1])

    def operate(self, inputs, kernel):
        return keras.ops.matmul(inputs, kernel)


def _exact_moments(x: tf.Tensor, axes: list[int]) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns mean and variance, twice differentiable; `tf.nn.moments` is so only once."""
    mean = tf.reduce_mean(x, axes, keepdims=True)
    return mean, tf.reduce_mean(tf.square(x - mean), axes, keepdims=True)


class LayerNormalization(keras.layers.LayerNormalization):
    """Keras' layer, right in second order, which its own variance is not (`tf.nn.moments`)."""

    def call(self, inputs):
        """Returns the normalised inputs, of the same shape."""
        if self.rms_scaling:  # its variance is not that of `tf.nn.moments`
            return super().call(inputs)
        x = tf.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        axes = [self.axis] if isinstance(self.axis, int) else list(self.axis)
        axes = sorted(axis % x.shape.rank for axis in axes)
        shape = [x.shape[i] if i in axes else 1 for i in range(x.shape.rank)]
        mean, variance = _exact_moments(x, axes)
        x = (x - mean) * tf.math.rsqrt(variance + self.epsilon)
        if self.gamma is not None:
            x *= tf.reshape(tf.cast(self.gamma, x.dtype), shape)
        if self.beta is not None:
            x += tf.reshape(tf.cast(self.beta, x.dtype), shape)
        return tf.cast(x, self.compute_dtype)


class GroupNormalization(keras.layers.GroupNormalization):
    """Keras' layer, right in second order, which its own variance is not (`tf.nn.moments`)."""

    def _apply_normalization(self, reshaped_inputs, input_shape):
        dtype = reshaped_inputs.dtype
        x = tf.cast(reshaped_inputs, keras.backend.result_type(dtype, "float32"))
        axes = list(range(1, x.shape.rank))
        axes.pop(-2 if self.axis == -1 else self.axis - 1)
        shape = self._create_broadcast_shape(input_shape)
        mean, variance = _exact_moments(x, axes)
        x = (x - mean) * tf.math.rsqrt(variance + self.epsilon)
        if self.scale:
            x *= tf.reshape(tf.cast(self.gamma, x.dtype), shape)
        if self.center:
            x += tf.reshape(tf.cast(self.beta, x.dtype), shape)
        return tf.cast(x, dtype)


class FixedNormalization(keras.layers.Layer):
    """A `Normalization` layer's (x - mean) / std with both as variables.

    Keras' own layer keeps them as constants beside its variables, which go into traces, and which
    a model's arrays would leave as they were.

    Args:
        source: the Keras layer, built.
        name: of the layer.
    """

    def __init__(self, source: keras.layers.Normalization, name: str):
        super().__init__(name=name, trainable=False)
        self._inverts = source.invert
        self._epsilon = keras.config.epsilon()
        values = {
            "mean": keras.ops.convert_to_numpy(source.mean),
            "variance": keras.ops.convert_to_numpy(source.variance),
        }
        self.mean, self.variance = (
            self.add_weight(name=key, shape=value.shape, initializer="zeros", trainable=False)
            for key, value in values.items()
        )
        self.mean.assign(values["mean"])
        self.variance.assign(values["variance"])

    def call(self, inputs):
        """Returns the normalised inputs, of the same shape."""
        mean = tf.cast(self.mean.value, inputs.dtype)
        std = tf.cast(tf.maximum(tf.sqrt(self.variance.value), self._epsilon), inputs.dtype)
        return inputs * std + mean if self._inverts else (inputs - mean) / std


class FromNormalized(keras.layers.Layer):
    """Normalised images, (x / 255 - mean) / std, as pixels of the range that a model eats.

    Args:
        mean: of x / 255, one per channel.
        std: of x / 255, one per channel.
        low: what a black pixel is to be.
        high: what a white one is to be.
        name: of the layer.
    """

    def __init__(self, mean, std, low: float, high: float, name: str = "pixels"):
        super().__init__(name=name, autocast=False)
        self._scale = np.array(std) * (high - low)
        self._offset = np.array(mean) * (high - low) + low

    def call(self, inputs):
        """Maps `[n, h, w, c]` to the same shape."""
        scale, offset = (tf.constant(value, inputs.dtype) for value in (self._scale, self._offset))
        return inputs * scale + offset


def converted_normalization(
    source: keras.layers.BatchNormalization, name: str
) -> BatchNormalization:
    """Returns the project's batch normalisation in the place of Keras', not built yet.

    Args:
        source: the Keras layer.
        name: of the new one.
    """
    layer = BatchNormalization(
        name, source.epsilon, source.momentum, source.axis, source.center, source.scale
    )
    layer.trainable = source.trainable
    return layer
