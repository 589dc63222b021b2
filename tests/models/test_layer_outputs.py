"""What the outputs of layers take, counted by hand."""

import keras

from mnemonics_tf.models.layer_outputs import layer_bytes
from mnemonics_tf.models.resnet import resnet_cifar

# Bytes of all outputs of ResNet-8 for an 8x8 image: 64 pixels at stage 1, 16, 4.
IMAGE_BYTES = 4 * (
    64 * 1  # the input
    + 64 * 16 * 2  # stem and its ReLU
    + 64 * 16 * 5  # block 1: convolution, ReLU, convolution, sum, ReLU
    + 16 * 32 * 6  # block 2, with a shortcut
    + 4 * 64 * 5  # block 3, with a shortcut and without a last ReLU
    + 64  # mean
)


def test_all_outputs_of_layers_count():
    backbone = resnet_cifar((8, 8, 1), 8, 0)
    assert layer_bytes(backbone) == IMAGE_BYTES
    inputs = keras.Input((8, 8, 1))
    twice = keras.Model(inputs, keras.layers.Add()([backbone(inputs), backbone(inputs)]))
    assert layer_bytes(twice) == 2 * IMAGE_BYTES + 4 * 64 + 4 * 64
    added, listed = keras.Sequential(), []
    for layer in (keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)):
        added.add(layer)
        listed.append(layer)
    assert layer_bytes(added) == layer_bytes(keras.Sequential(listed))


def test_what_is_not_known_counts_nothing():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    inputs = keras.Input((None, None, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    assert layer_bytes(keras.Model(inputs, pooled)) == 4 * 3
    assert layer_bytes(Subclassed()) == 0
