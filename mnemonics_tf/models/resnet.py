"""Residual networks as Keras models that map normalised images to features.

Both follow the variants of LUCIR, whose protocol the paper uses: 1x1 convolutions with batch
normalisation as shortcuts where the shape changes, and no ReLU after the last block, so that
features keep their sign for the cosine classifier.
"""

import dataclasses
from collections.abc import Callable

import keras

from mnemonics_tf.errors import UserError
from mnemonics_tf.models.layers import WeightTransferConvolution
from mnemonics_tf.randomness import derive_seed


class _Builder:
    """Adds convolutions with readable names and seeds of their own."""

    def __init__(self, seed: int):
        self._seed = seed

    def convolve(self, x, filters: int, size: int, stride: int, name: str):
        seed = derive_seed(self._seed, "initialisation", name)
        return WeightTransferConvolution(filters, size, stride, seed=seed, name=name)(x)

    def block(self, x, filters: int, stride: int, name: str, relu_after: bool):
        shortcut = x
        if stride != 1 or x.shape[-1] != filters:
            shortcut = self.convolve(x, filters, 1, stride, f"{name}_shortcut")
        y = keras.layers.ReLU(name=f"{name}_relu1")(
            self.convolve(x, filters, 3, stride, f"{name}_conv1")
        )
        y = keras.layers.Add(name=f"{name}_add")(
            [self.convolve(y, filters, 3, 1, f"{name}_conv2"), shortcut]
        )
        return keras.layers.ReLU(name=f"{name}_relu2")(y) if relu_after else y

    def stages(self, x, widths: tuple[int, ...], blocks: int):
        for stage, filters in enumerate(widths):
            for block in range(blocks):
                last = stage == len(widths) - 1 and block == blocks - 1
                stride = 2 if stage > 0 and block == 0 else 1
                x = self.block(
                    x, filters, stride, f"stage{stage}_block{block}", relu_after=not last
                )
        return keras.layers.GlobalAveragePooling2D(name="features")(x)


def check_cifar_depth(depth: int) -> None:
    """Raises UserError if the depth is not of the form 6 n + 2."""
    if depth < 8 or (depth - 2) % 6:
        raise UserError(
            f"--depth={depth} is no depth of a CIFAR ResNet: pass 6n + 2, that is 8, 14, 20, 26, "
            "32, ..."
        )


def resnet_cifar(image_shape: tuple[int, int, int], depth: int, seed: int) -> keras.Model:
    """Returns a CIFAR ResNet of depth 6 n + 2: widths 16, 32, 64 with n blocks each.

    Args:
        image_shape: `(h, w, c)` of the normalised images.
        depth: 8, 14, 20, 26, 32, ...; the paper uses 32.
        seed: for He's initialisation.

    Returns:
        A Keras model from `[n, h, w, c]` to features `[n, 64]`.

    Raises:
        UserError: if the depth is not of the form 6 n + 2.
    """
    check_cifar_depth(depth)
    builder = _Builder(seed)
    images = keras.Input(image_shape, name="images")
    x = keras.layers.ReLU(name="stem_relu")(builder.convolve(images, 16, 3, 1, "stem"))
    features = builder.stages(x, (16, 32, 64), (depth - 2) // 6)
    return keras.Model(images, features, name=f"resnet{depth}")


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A family of backbones.

    Attributes:
        build: (image shape, depth, seed) -> Keras model from images to features.
        check_depth: raises UserError for a depth that the family does not have.
    """

    build: Callable[[tuple[int, int, int], int, int], keras.Model]
    check_depth: Callable[[int], None]


BACKBONES = {"resnet_cifar": Backbone(resnet_cifar, check_cifar_depth)}
