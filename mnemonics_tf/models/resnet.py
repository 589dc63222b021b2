"""Residual networks as Keras models that map normalised images to features.

Both follow the variants of LUCIR, whose protocol the paper uses: 1x1 convolutions with batch
normalisation as shortcuts where the shape changes, and no ReLU after the last block, so that
features keep their sign for the cosine classifier.

Departure from LUCIR's release: its iCaRL, with a linear classifier, has a ReLU there. Here all
methods have one network, so that what differs between them is the method; the paper does not say.
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

    def stages(self, x, widths: tuple[int, ...], blocks: tuple[int, ...]):
        for stage, filters in enumerate(widths):
            for block in range(blocks[stage]):
                last = stage == len(widths) - 1 and block == blocks[stage] - 1
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
    features = builder.stages(x, (16, 32, 64), ((depth - 2) // 6,) * 3)
    return keras.Model(images, features, name=f"resnet{depth}")


#: blocks of each stage by depth; each block holds two convolutions, stem and classifier one each
_IMAGENET_BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def check_imagenet_depth(depth: int) -> None:
    """Raises UserError if there is no ImageNet ResNet of basic blocks of this depth."""
    if depth not in _IMAGENET_BLOCKS:
        raise UserError(
            f"--depth={depth} is no depth of an ImageNet ResNet of basic blocks: pass one of "
            f"{', '.join(map(str, _IMAGENET_BLOCKS))}"
        )


def resnet_imagenet(image_shape: tuple[int, int, int], depth: int, seed: int) -> keras.Model:
    """Returns an ImageNet ResNet of basic blocks: widths 64, 128, 256, 512.

    Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, Table 1; without the
    last ReLU, as in LUCIR.

    Args:
        image_shape: `(h, w, c)` of the normalised images.
        depth: 10, 18 or 34; the paper uses 18.
        seed: for He's initialisation.

    Returns:
        A Keras model from `[n, h, w, c]` to features `[n, 512]`.

    Raises:
        UserError: if there is no such depth.
    """
    check_imagenet_depth(depth)
    builder = _Builder(seed)
    images = keras.Input(image_shape, name="images")
    x = keras.layers.ReLU(name="stem_relu")(builder.convolve(images, 64, 7, 2, "stem"))
    # Padded evenly, as in PyTorch; below a ReLU zeros never win against a pixel.
    x = keras.layers.ZeroPadding2D(1, name="stem_padding")(x)
    x = keras.layers.MaxPooling2D(3, 2, name="stem_pooling")(x)
    features = builder.stages(x, (64, 128, 256, 512), _IMAGENET_BLOCKS[depth])
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


BACKBONES = {
    "resnet_cifar": Backbone(resnet_cifar, check_cifar_depth),
    "resnet_imagenet": Backbone(resnet_imagenet, check_imagenet_depth),
}
