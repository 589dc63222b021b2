import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.models.layers import BatchNormalization, PlainWeights, WeightTransferConvolution

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """A convolution as PyTorch pads it: (k - 1) / 2 zeros on every side."""
    size = kernel.shape[0]
    pad = (size - 1) // 2
    padded = np.pad(x.astype(np.float64), [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    rows = (padded.shape[1] - size) // stride + 1
    columns = (padded.shape[2] - size) // stride + 1
    result = np.zeros((len(x), rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            top, left = i * stride, j * stride
            window = padded[:, top : top + size, left : left + size]
            result[:, i, j] = np.tensordot(window, kernel.astype(np.float64), 3)
    return result


def normalize(x: np.ndarray, gamma, beta, mean=None, variance=None) -> np.ndarray:
    mean = x.mean(axis=(0, 1, 2)) if mean is None else mean
    variance = x.var(axis=(0, 1, 2)) if variance is None else variance
    return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta


def make_normalization(channels: int) -> BatchNormalization:
    layer = BatchNormalization()
    layer.build((None, None, None, channels))
    layer.gamma.assign(random(channels, seed=1))
    layer.beta.assign(random(channels, seed=2))
    return layer


def make_convolution(filters: int = 4, size: int = 3, stride: int = 1, transfer: bool = False):
    """Returns a layer on 3 channels whose normalisation and scales have left their start."""
    layer = WeightTransferConvolution(filters, size, stride)
    layer.build((None, 8, 8, 3))
    if transfer:
        layer.set_transfer(True)
        layer.transfer_scale.assign(1 + 0.3 * random(1, 1, 3, filters, seed=3))
    normalization = layer.normalization
    normalization.gamma.assign(random(filters, seed=4))
    normalization.beta.assign(random(filters, seed=5))
    normalization.moving_mean.assign(random(filters, seed=6))
    normalization.moving_variance.assign(random(filters, seed=7) ** 2 + 0.5)
    return layer


# Batch normalisation


@pytest.mark.parametrize("exact", [False, True])
def test_training_normalises_by_the_batch(exact):
    layer = make_normalization(5)
    layer.exact = exact
    x = random(6, 4, 3, 5) * 3 + 1
    expected = normalize(x, layer.gamma.numpy(), layer.beta.numpy())
    np.testing.assert_allclose(layer(x, training=True), expected, atol=1e-4)


@pytest.mark.parametrize("exact", [False, True])
def test_moving_statistics_follow_at_nine_tenths_with_unbiased_variance(exact):
    layer = make_normalization(5)
    layer.exact = exact
    mean, variance = np.zeros(5), np.ones(5)
    for step in range(3):
        x = random(2, 3, 2, 5, seed=step) * 2 + 1
        layer(x, training=True)
        mean = 0.9 * mean + 0.1 * x.mean(axis=(0, 1, 2))
        variance = 0.9 * variance + 0.1 * x.var(axis=(0, 1, 2), ddof=1)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-5)


def test_first_order_gradients_of_both_ways_agree():
    x, weight = tf.constant(random(4, 3, 3, 2) + 1), random(4, 3, 3, 2, seed=9)
    gradients = []
    for exact in (False, True):
        layer = make_normalization(2)
        layer.exact = exact
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, training=True) * weight)
        gradients.append(tape.gradient(loss, [x, layer.gamma.value, layer.beta.value]))
    for fused, exact in zip(*gradients, strict=True):
        np.testing.assert_allclose(fused, exact, atol=1e-4)


def test_exact_statistics_are_right_in_second_order():
    """Against central differences of the first-order gradient, in double precision."""
    layer = BatchNormalization()
    layer.exact = True
    layer.build((None, None, None, 2))
    point = np.random.default_rng(0).normal(size=(3, 2, 2, 2))
    direction = np.random.default_rng(1).normal(size=point.shape)

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer.call(x, training=True) ** 4)  # no cast to float32
        return tape.gradient(loss, x)

    x = tf.constant(point)
    with tf.GradientTape() as tape:
        tape.watch(x)
        product = tf.reduce_sum(gradient(x) * direction)
    by_tape = tape.gradient(product, x)
    step = 1e-5
    ahead, behind = (gradient(tf.constant(point + s * direction)) for s in (step, -step))
    by_differences = (ahead - behind) / (2 * step)
    np.testing.assert_allclose(by_tape, by_differences, atol=1e-6 * np.abs(by_differences).max())


def test_inference_normalises_by_the_moving_statistics_and_keeps_them():
    layer = make_normalization(5)
    layer.moving_mean.assign(random(5, seed=3))
    layer.moving_variance.assign(random(5, seed=4) ** 2)
    before = [variable.numpy() for variable in layer.variables]
    x = random(2, 3, 3, 5)
    gamma, beta, mean, variance = before
    outputs = layer(x, training=False)
    np.testing.assert_allclose(outputs, normalize(x, gamma, beta, mean, variance), atol=2e-4)
    for variable, value in zip(layer.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


TWO_DEVICES = """
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from mnemonics_tf.models.layers import BatchNormalization

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
x = np.random.default_rng(0).normal(size=(7, 3, 3, 2)).astype(np.float32) * 2 + 1
weight = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)

def make():
    layer = BatchNormalization()
    layer.build((None, None, None, 2))
    return layer

def step(layer, x, weight):
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x, training=True)
        loss = tf.reduce_sum(outputs * weight)
    return outputs, tape.gradient(loss, x)

single = make()
expected = step(single, tf.constant(x), weight)
with strategy.scope():
    shared = make()
batches = tf.data.Dataset.from_tensor_slices((x, weight)).batch(7)
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
batch = next(iter(strategy.experimental_distribute_dataset(batches.with_options(options))))
run = tf.function(lambda x, weight: strategy.run(lambda x, w: step(shared, x, w), (x, weight)))
outputs = run(*batch)
for ours, reference in zip(outputs, expected):
    parts = strategy.experimental_local_results(ours)
    assert [len(part) for part in parts] == [4, 3]
    np.testing.assert_allclose(np.concatenate(parts), reference, atol=2e-6)
for name in ("moving_mean", "moving_variance"):
    for replica in strategy.experimental_local_results(getattr(shared, name).value):
        np.testing.assert_allclose(replica, getattr(single, name).numpy(), rtol=1e-6)
print("equal")
"""


@pytest.mark.slow
@pytest.mark.exhaustive  # tests/test_devices.py trains with them on two devices
def test_two_devices_share_their_statistics():
    """One strategy a process: several default ones collide."""
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stdout.split()[-1:] == ["equal"], done.stderr[-2000:]


# Convolution


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (1, 1), (1, 2)])
@pytest.mark.parametrize("side", [8, 7])
@pytest.mark.parametrize("training", [False, True])
def test_convolution_pads_symmetrically(size, stride, side, training):
    layer = make_convolution(4, size, stride)
    x = random(2, side, side, 3, seed=8)
    gamma, beta, mean, variance = (v.numpy() for v in layer.normalization.variables)
    plain = convolve(x, layer.kernel.numpy(), stride)
    if training:
        expected = normalize(plain, gamma, beta)
    else:
        expected = normalize(plain, gamma, beta, mean, variance)
    assert layer.compute_output_shape((2, side, side, 3)) == expected.shape
    np.testing.assert_allclose(layer(x, training=training), expected, atol=2e-5)


def test_initialisation_is_he_by_fan_out():
    layer = WeightTransferConvolution(64, 3, seed=1)
    layer.build((None, 8, 8, 32))
    kernel = layer.kernel.numpy()
    assert kernel.std() == pytest.approx(np.sqrt(2 / (3 * 3 * 64)), rel=0.02)
    assert abs(kernel.mean()) < 0.001
    assert np.abs(kernel).max() > 3 * kernel.std()  # not truncated


@pytest.mark.parametrize("training", [False, True])
def test_switch_to_weight_transfer_leaves_the_outputs(training):
    layer = make_convolution()
    x = random(2, 8, 8, 3, seed=8)
    before = layer(x, training=training).numpy()
    layer.set_transfer(True)
    np.testing.assert_allclose(layer(x, training=training), before, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_scales_act_on_each_pair_of_channels(training):
    layer = make_convolution(stride=2, transfer=True)
    x = random(2, 8, 8, 3, seed=8)
    kernel, scale = layer.kernel.numpy(), layer.transfer_scale.numpy()[0, 0]
    scaled = np.empty_like(kernel)
    for i in range(3):
        for o in range(4):
            scaled[:, :, i, o] = kernel[:, :, i, o] * scale[i, o]
    gamma, beta, mean, variance = (v.numpy() for v in layer.normalization.variables)
    statistics = () if training else (mean, variance)
    expected = normalize(convolve(x, scaled, 2), gamma, beta, *statistics)
    np.testing.assert_allclose(layer(x, training=training), expected, atol=2e-5)


def test_weight_transfer_trains_scales_and_affine_only():
    layer = make_convolution()

    def trained() -> set[str]:
        return {variable.name for variable in layer.trainable_variables}

    assert trained() == {"kernel", "gamma", "beta"}
    layer.set_transfer(True)
    assert trained() == {"transfer_scale", "gamma", "beta"}


@pytest.mark.parametrize("transfer", [False, True])
def test_folded_weights_are_the_plain_convolution(transfer):
    layer = make_convolution(stride=2, transfer=transfer)
    x = random(2, 8, 8, 3, seed=8)
    kernel, bias = (value.numpy() for value in layer.folded())
    np.testing.assert_allclose(layer(x), convolve(x, kernel, 2) + bias, atol=2e-5)


def test_plain_weights_take_the_place_of_folding():
    layer = make_convolution()
    x = random(1, 8, 8, 3, seed=8)
    kernel, bias = random(3, 3, 3, 4, seed=9), random(4, seed=10)
    layer.plain_weights = PlainWeights(tf.Variable(kernel), tf.Variable(bias))
    np.testing.assert_allclose(layer(x), convolve(x, kernel, 1) + bias, atol=2e-5)
