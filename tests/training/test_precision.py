"""Mixed precision and compilation against plain float32, on a model that learns three classes."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.augmentation import AUGMENTATIONS
from mnemonics_tf.data.image_set import ArrayImageSet
from mnemonics_tf.data.pipeline import Normalization, Pipeline
from mnemonics_tf.methods.base import cross_entropy
from mnemonics_tf.models.architecture import Architecture
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.training import precision
from mnemonics_tf.training.loop import TrainingLoop
from mnemonics_tf.training.optimization import OptimizationSettings
from mnemonics_tf.training.precision import LossScale, count_not_finite

pytestmark = pytest.mark.usefixtures("small_networks")

SETTINGS = OptimizationSettings(3, 0.05, (), 0.1, 0.9, 5e-4, False, batch_size=8)
#: some five times the largest difference of a value of the model, and of an epoch's loss, over the
#: course below
TOLERANCES = {"bfloat16": (0.02, 0.002), "float16": (0.004, 0.0002)}


def make_images() -> ArrayImageSet:
    labels = np.arange(16) % 3
    noise = np.random.default_rng(0).integers(0, 60, (16, 8, 8, 1))
    return ArrayImageSet((noise + 90 * labels[:, None, None, None]).astype(np.uint8), labels)


def make_model() -> IncrementalModel:
    return IncrementalModel(Architecture("resnet_cifar", 8, (8, 8, 1), "linear"), 0, 3, 0)


def make_loop(model, factor=1.0, **options) -> TrainingLoop:
    def loss_parts(batch, outputs, old_outputs):
        return {"classification": factor * cross_entropy(batch["label"], outputs.logits)}

    pipeline = Pipeline(Normalization((0.5,), (0.5,)), AUGMENTATIONS["shift"], 0)
    strategy = tf.distribute.get_strategy()
    return TrainingLoop(model, None, loss_parts, SETTINGS, pipeline, strategy, **options)


def train(**options):
    """Three epochs; the model's and the optimiser's states, and the losses."""
    model = make_model()
    loop = make_loop(model, **options)
    losses = [loop.run_epoch(make_images(), epoch, "train")["loss"] for epoch in range(3)]
    return model.state(), loop.state(), losses


@pytest.fixture(scope="module")
def plain():
    return train()


@pytest.fixture(scope="module")
def no_overflow():
    """Gradients that no processor's float16 lets overflow.

    From a scale of 2^15 the first step may, and is rightly left out; but it is one of six here, and
    the course is another.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "_FIRST_SCALE", 2.0**10)
        yield


@pytest.fixture(scope="module", params=["bfloat16", "float16"])
def mixed(request, no_overflow):
    return request.param, train(mixed_precision=request.param)


@pytest.mark.slow
def test_a_course_in_16_bits_is_near_that_in_32(plain, mixed):
    dtype, (state, _, losses) = mixed
    weight_tolerance, loss_tolerance = TOLERANCES[dtype]
    np.testing.assert_allclose(losses, plain[2], atol=loss_tolerance)
    assert losses[-1] < 0.8 * losses[0]
    for name, value in plain[0].items():
        np.testing.assert_allclose(state[name], value, atol=weight_tolerance, err_msg=name)
    assert not np.allclose(state["stem/kernel"], plain[0]["stem/kernel"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_in_16_bits_point_where_those_in_32_do(dtype):
    model, images = make_model(), make_images()
    pixels = tf.constant(images.images, tf.float32) / 128 - 1

    def gradient():
        with tf.GradientTape() as tape:
            logits = model(pixels, training=True).logits
            loss = tf.reduce_mean(cross_entropy(images.labels, logits))
        parts = tape.gradient(loss, model.trainable_variables)
        assert {part.dtype for part in parts} == {tf.float32}
        return np.concatenate([part.numpy().ravel() for part in parts])

    expected = gradient()
    with model.activations_in(dtype):
        ours = gradient()
    cosine = ours @ expected / np.linalg.norm(ours) / np.linalg.norm(expected)
    assert 0.99 < cosine < 1 - 1e-9
    assert np.linalg.norm(ours) == pytest.approx(np.linalg.norm(expected), rel=0.03)


@pytest.mark.slow
def test_what_is_kept_is_in_32_bits(plain, mixed):
    _, (state, optimizer, _) = mixed
    assert {name: v.dtype for name, v in state.items()} == {n: v.dtype for n, v in plain[0].items()}
    for name, value in plain[1].items():
        assert optimizer[name].dtype == value.dtype


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_convolutions_run_in_16_bits_and_features_come_in_32(monkeypatch, dtype, training):
    model, seen, convolve = make_model(), [], tf.nn.conv2d
    images = tf.constant(make_images().images, tf.float32) / 128 - 1
    before = model(images).logits.numpy()

    def recorded(inputs, kernel, *arguments, **options):
        seen.append((inputs.dtype, kernel.dtype))
        return convolve(inputs, kernel, *arguments, **options)

    monkeypatch.setattr(tf.nn, "conv2d", recorded)
    with model.activations_in(dtype):
        outputs = model(images, training=training)
    assert set(seen) == {(tf.as_dtype(dtype), tf.as_dtype(dtype))}
    assert outputs.features.dtype == outputs.logits.dtype == tf.float32
    if not training:
        np.testing.assert_allclose(outputs.logits, before, atol=0.05)
        np.testing.assert_array_equal(model(images).logits, before)  # back in float32


@pytest.mark.slow
def test_a_step_that_overflows_is_left_out_and_halves_the_scale():
    model = make_model()
    before = model.trainable_variables[0].numpy().copy()
    loop = make_loop(model, factor=1e36, mixed_precision="float16")
    momenta = [v for v in loop.state().values() if v.ndim]
    loop.run_epoch(make_images(), 0, "train")
    np.testing.assert_array_equal(model.trainable_variables[0].numpy(), before)
    *optimizer, factor, good_steps = loop.state().values()
    assert (factor, good_steps) == (precision._FIRST_SCALE / 4, 0)  # two steps
    for ours, start in zip([v for v in optimizer if v.ndim], momenta, strict=True):
        np.testing.assert_array_equal(ours, start)


@pytest.mark.slow
def test_gradients_that_no_scale_makes_finite_end_training(monkeypatch):
    """The loss says nothing of them, and every step would be left out for ever."""
    monkeypatch.setattr(precision, "_FIRST_SCALE", 4.0)
    monkeypatch.setattr(precision, "_HOPELESS", 3)

    @tf.custom_gradient
    def without_derivative(values):
        return values, lambda upstream: np.nan * upstream

    def loss_parts(batch, outputs, old_outputs):
        return {"bad": without_derivative(cross_entropy(batch["label"], outputs.logits))}

    pipeline = Pipeline(Normalization((0.5,), (0.5,)), AUGMENTATIONS["shift"], 0)
    strategy = tf.distribute.get_strategy()
    options = {"mixed_precision": "float16"}
    loop = TrainingLoop(make_model(), None, loss_parts, SETTINGS, pipeline, strategy, **options)
    epochs = loop.run(make_images(), range(3), ("train",))  # two steps each: to 2, to 1, and 3 at 1
    with pytest.raises(FloatingPointError, match="gradients are not finite in epoch 2 of train"):
        collections.deque(epochs, maxlen=0)


def test_the_loss_scale_doubles_after_many_good_steps():
    scale = LossScale()
    first = scale.factor.numpy()
    scale.good_steps.assign(1998)
    for good_steps, factor in ((1999, first), (0, 2 * first), (1, 2 * first)):
        scale.update(tf.constant(True))
        assert (scale.good_steps.numpy(), scale.factor.numpy()) == (good_steps, factor)
    scale.update(tf.constant(False))
    assert (scale.good_steps.numpy(), scale.factor.numpy()) == (0, first)


def test_gradients_that_are_not_finite_are_counted():
    gradients = [tf.ones(2), tf.constant([1.0, np.inf]), tf.constant([np.nan])]
    assert count_not_finite(gradients).numpy() == 2
    assert count_not_finite(gradients[:1]).numpy() == 0


@pytest.mark.slow
def test_a_resumed_course_in_float16_is_equal_bit_for_bit(mixed):
    dtype, (state, optimizer, _) = mixed
    model = make_model()
    loop = make_loop(model, mixed_precision=dtype)
    loop.run_epoch(make_images(), 0, "train")
    resumed_model = make_model()
    resumed_model.set_state(model.state())
    resumed = make_loop(resumed_model, mixed_precision=dtype)
    resumed.set_state(loop.state())
    for epoch in (1, 2):
        resumed.run_epoch(make_images(), epoch, "train")
    for ours, expected in ((resumed_model.state(), state), (resumed.state(), optimizer)):
        assert ours.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(ours[name], value, err_msg=name)


@pytest.mark.slow
def test_a_compiled_course_is_the_same(plain):
    state, optimizer, losses = train(jit_compile=True)
    np.testing.assert_allclose(losses, plain[2], rtol=1e-4)
    for ours, expected in ((state, plain[0]), (optimizer, plain[1])):
        for name, value in expected.items():
            np.testing.assert_allclose(ours[name], value, atol=1e-3, err_msg=name)
