"""A network of two convolutions for tests in which depth plays no part: traced in a fourth."""

import contextlib
from collections.abc import Iterator

import keras

from mnemonics_tf.models.layers import WeightTransferConvolution
from mnemonics_tf.models.resnet import BACKBONES, Backbone, check_cifar_depth
from mnemonics_tf.randomness import derive_seed

#: `--backbone` of a process that a test starts
NAME = "tests.small_network:NETWORK"


def build(image_shape: tuple[int, int, int], depth: int, seed: int) -> keras.Model:
    """Returns the stem of a CIFAR ResNet and one convolution more, whatever the depth."""
    del depth

    def convolve(x, filters: int, stride: int, name: str):
        own = derive_seed(seed, "initialisation", name)
        return WeightTransferConvolution(filters, 3, stride, seed=own, name=name)(x)

    images = keras.Input(image_shape, name="images")
    x = keras.layers.ReLU(name="stem_relu")(convolve(images, 16, 1, "stem"))
    features = keras.layers.GlobalAveragePooling2D(name="features")(convolve(x, 64, 2, "last"))
    return keras.Model(images, features, name="small")


NETWORK = Backbone(build, check_cifar_depth)


@contextlib.contextmanager
def in_place_of_resnets() -> Iterator[None]:
    """Within it `resnet_cifar` is the small network, whatever depth is asked for."""
    resnet = BACKBONES["resnet_cifar"]
    BACKBONES["resnet_cifar"] = NETWORK
    try:
        yield
    finally:
        BACKBONES["resnet_cifar"] = resnet
