"""Small Keras models as users have them, with weights that have left their start."""

import keras
import numpy as np

layers = keras.layers

SHAPE = (8, 8, 3)


def uneven(model: keras.Model, seed: int = 0) -> keras.Model:
    """Draws all weights anew, off their round starting values."""
    random = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.dtype.startswith("float"):
            drawn = 0.3 * np.tanh(random.normal(size=variable.shape))
            around_one = variable.name in ("gamma", "variance", "moving_variance")
            variable.assign(1 + drawn if around_one else drawn)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()
    return model


def mixed() -> keras.Model:
    """All that is converted: nested, shared and frozen layers, and operations on tensors."""
    inner_input = keras.Input((8, 8, 4))
    y = layers.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False)(inner_input)
    y = layers.BatchNormalization(epsilon=1e-2, momentum=0.6)(y)
    y = layers.ReLU(6.0)(y + 1.0)
    inner = keras.Model(inner_input, y)
    images = keras.Input(SHAPE)
    x = layers.Normalization()(layers.Rescaling(1 / 2)(images))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, activation="swish")(x)
    shared = layers.Conv2D(4, 1, name="mixer")
    x = layers.add([inner(shared(x)), inner(shared(shared(x)))])
    x = layers.BatchNormalization(axis=1, scale=False)(layers.LayerNormalization()(x))
    x = layers.Conv2D(6, (1, 3), groups=2, name="grouped")(x)
    frozen = layers.Dense(5, "tanh", trainable=False)
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(frozen(x)))
    return uneven(keras.Model(images, x))


def plain(units: int = 4) -> keras.Model:
    """A convolution, a normalisation, and averages."""
    return uneven(
        keras.Sequential(
            [
                keras.Input(SHAPE),
                layers.Conv2D(units, 3, strides=2, padding="same"),
                layers.BatchNormalization(momentum=0.8),
                layers.Activation("swish"),
                layers.GlobalAveragePooling2D(),
            ]
        )
    )
