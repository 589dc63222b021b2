import keras
import numpy as np
import pytest

from mnemonics_tf.errors import UserError
from mnemonics_tf.models.layers import WeightTransferConvolution
from mnemonics_tf.models.resnet import resnet_cifar, resnet_imagenet


def convolutions(model: keras.Model) -> dict[str, WeightTransferConvolution]:
    return {v.name: v for v in model.layers if isinstance(v, WeightTransferConvolution)}


def count_weights(blocks: int, channels: int) -> int:
    """Kernels, and two numbers of normalisation a filter; a shortcut where the width changes."""

    def convolution(size, inputs, filters):
        return size * size * inputs * filters + 2 * filters

    total = convolution(3, channels, 16)
    width = 16
    for filters in (16, 32, 64):
        for block in range(blocks):
            inputs = width if block == 0 else filters
            total += convolution(3, inputs, filters) + convolution(3, filters, filters)
            if inputs != filters:
                total += convolution(1, inputs, filters)
        width = filters
    return total


@pytest.fixture(scope="module")
def resnet32():
    return resnet_cifar((32, 32, 3), 32, seed=0)


def trained_weights(model: keras.Model) -> int:
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def test_resnet32_has_as_many_weights_as_by_hand(resnet32):
    stem, first = 464, 10 * 2336
    second = 4672 + 576 + 9 * 9280
    third = 18560 + 2176 + 9 * 36992
    assert trained_weights(resnet32) == stem + first + second + third == 466256
    assert count_weights(5, 3) == 466256


def test_resnet32_has_31_convolutions_and_two_shortcuts(resnet32):
    layers = convolutions(resnet32)
    shortcuts = {name: layer for name, layer in layers.items() if "shortcut" in name}
    assert len(layers) - len(shortcuts) == 31  # the classifier is the 32nd layer
    assert [(s.kernel_size, s.stride, s.filters) for s in shortcuts.values()] == [
        (1, 2, 32),
        (1, 2, 64),
    ]
    widths = [layer.filters for name, layer in layers.items() if name not in shortcuts]
    assert widths == [16] * 11 + [32] * 10 + [64] * 10


def test_stages_halve_the_image(resnet32):
    shapes = {name: layer.output.shape[1:] for name, layer in convolutions(resnet32).items()}
    assert shapes["stem"] == (32, 32, 16)
    assert shapes["stage0_block4_conv2"] == (32, 32, 16)
    assert shapes["stage1_block0_conv1"] == (16, 16, 32)
    assert shapes["stage2_block4_conv2"] == (8, 8, 64)
    assert resnet32.output_shape == (None, 64)


def test_features_keep_their_sign():
    model = resnet_cifar((8, 8, 3), 14, seed=0)
    images = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
    last = convolutions(model)["stage2_block1_conv2"].normalization
    last.beta.assign(np.linspace(-5, 5, 64))
    features = model(images).numpy()
    assert features.min() < -2
    assert features.max() > 2


def test_every_block_but_the_last_ends_in_a_relu(resnet32):
    relus = [layer.name for layer in resnet32.layers if isinstance(layer, keras.layers.ReLU)]
    assert len(relus) == 30  # the stem, two a block, and none after the last addition
    assert "stage2_block4_relu2" not in relus


def test_a_block_is_what_it_says():
    """The forward pass, layer by layer, of a network with one block a stage."""
    model = resnet_cifar((8, 8, 1), 8, seed=3)
    layers = convolutions(model)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)

    def relu(x):
        return np.maximum(x, 0)

    x = relu(layers["stem"](images).numpy())
    for stage in range(3):
        name = f"stage{stage}_block0"
        inner = relu(layers[f"{name}_conv1"](x).numpy())
        shortcut = layers[f"{name}_shortcut"](x).numpy() if stage else x
        x = layers[f"{name}_conv2"](inner).numpy() + shortcut
        x = relu(x) if stage < 2 else x
    np.testing.assert_allclose(model(images), x.mean(axis=(1, 2)), atol=1e-5)


@pytest.mark.parametrize(("depth", "blocks"), [(8, 1), (14, 2)])
def test_depths(depth, blocks):
    model = resnet_cifar((8, 8, 1), depth, seed=0)
    assert trained_weights(model) == count_weights(blocks, 1)


@pytest.mark.parametrize("depth", [2, 7, 18, 30, 34])
def test_depths_that_do_not_exist(depth):
    with pytest.raises(UserError, match=f"--depth={depth}.*6n \\+ 2"):
        resnet_cifar((8, 8, 1), depth, seed=0)


def test_seed_decides_the_weights_and_layers_differ():
    first, again, other = (resnet_cifar((8, 8, 1), 8, seed) for seed in (0, 0, 1))
    kernels = [
        [layer.kernel.numpy() for layer in convolutions(m).values()] for m in (first, again, other)
    ]
    for a, b, c in zip(*kernels, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
    same_shape = [k for k in kernels[0] if k.shape == (3, 3, 16, 16)]
    assert len(same_shape) == 2
    assert not np.array_equal(*same_shape)


def test_resnet18_is_that_of_the_paper():
    model = resnet_imagenet((224, 224, 3), 18, seed=0)
    # torchvision's resnet18 has 11,689,512 weights, 513,000 of them in its classifier.
    scales = sum(int(np.prod(layer.transfer_scale.shape)) for layer in convolutions(model).values())
    assert model.count_params() - scales - moving_statistics(model) == 11_689_512 - 513_000
    assert model.output_shape == (None, 512)
    shapes = {name: layer.output.shape[1:] for name, layer in convolutions(model).items()}
    assert shapes["stem"] == (112, 112, 64)
    for stage, (size, width) in enumerate(((56, 64), (28, 128), (14, 256), (7, 512))):
        assert shapes[f"stage{stage}_block1_conv2"] == (size, size, width)
    assert model.layers[-2].name == "stage3_block1_add"  # no ReLU before the features


def moving_statistics(model: keras.Model) -> int:
    return sum(int(np.prod(v.shape)) for v in model.variables if "moving" in v.name)


def test_depths_that_an_imagenet_resnet_does_not_have():
    with pytest.raises(UserError, match="--depth=20 .* 10, 18, 34"):
        resnet_imagenet((224, 224, 3), 20, seed=0)
