"""One step of every method against what it was before classifiers had room for more classes."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.methods import METHODS
from mnemonics_tf.models.architecture import Architecture
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.settings import TrainingSettings
from mnemonics_tf.training.optimization import OptimizationSettings
from mnemonics_tf.training.step import METRICS, TrainingStep

NUM_OLD, NUM_NEW, BATCH = 3, 2, 9
#: losses by part and, of each gradient, its largest entry and some others: computed by a version
#: whose classifier was as wide as the classes seen and kept the old ones' weights in a variable of
#: their own, from the weights and the batch below
EXPECTED = pathlib.Path(__file__).with_name("one_step.npz")
SETTINGS = OptimizationSettings(1, 0.1, (), 0.1, 0.9, 5e-4, False, BATCH)


def draw(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Weights by name, drawn in the order of the names."""
    generator, weights = np.random.default_rng(seed), {}
    for path in sorted(shapes):
        drawn = generator.normal(size=shapes[path])
        around_one = ("gamma", "moving_variance", "transfer_scale", "scale", "gain")
        is_scale = path.split("/")[-1] in around_one
        drawn = 1 + 0.2 * np.tanh(drawn) if is_scale else 0.2 * drawn
        weights[path] = drawn.astype(np.float32)
    return weights


def with_two_kernels(model: IncrementalModel) -> dict[str, tuple[int, ...]]:
    """The model's shapes, with the weights of old and new classes apart."""
    shapes = model.shapes()
    dimension, _ = shapes.pop("classifier/kernel")
    if model.classifier.num_old:
        shapes["classifier/old_kernel"] = (dimension, model.classifier.num_old)
    return shapes | {"classifier/new_kernel": (dimension, model.classifier.num_new)}


def sample(array: np.ndarray) -> np.ndarray:
    flat = array.ravel()
    where = np.unique(np.linspace(0, flat.size - 1, 12).astype(int))
    return np.concatenate([[np.abs(flat).max()], flat[where]])


def make_step(name: str, transfer: bool, **options) -> tuple[TrainingStep, IncrementalModel]:
    method = METHODS[name](TrainingSettings())
    architecture = Architecture(
        "resnet_cifar", 8, (8, 8, 3), method.classifier, method.corrects_logits
    )
    model = IncrementalModel(architecture, NUM_OLD, NUM_NEW, 0)
    old_model = IncrementalModel(architecture, 0, NUM_OLD, 0)
    for seed, one, scaled in ((1, model, transfer), (2, old_model, False)):
        weights = draw(with_two_kernels(one), seed)
        for path in weights:
            if path.endswith("transfer_scale") and not scaled:
                weights[path] = np.ones_like(weights[path])
        one.set_state(weights)
    model.set_transfer(transfer)
    if method.freezes_old_classes:
        model.classifier.freeze_old()
    strategy = tf.distribute.get_strategy()
    parts, old_model = method.loss_parts, old_model.frozen_copy()
    return TrainingStep(model, old_model, parts, SETTINGS, strategy, **options), model


def make_batch() -> dict[str, tf.Tensor]:
    images = np.random.default_rng(3).normal(size=(BATCH, 8, 8, 3))
    return {
        "image": tf.constant(images, tf.float32),
        "label": tf.constant(np.arange(BATCH) % (NUM_OLD + NUM_NEW), tf.int32),
        "weight": tf.fill([BATCH], 1 / BATCH),
    }


def by_name(step: TrainingStep, model: IncrementalModel, gradients) -> dict[str, np.ndarray]:
    """Gradients by variable, those of old and new classes' weights apart."""
    found = {
        variable.path: model.seen_part(variable, gradient.numpy())
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True)
    }
    kernel = found.pop("classifier/kernel")
    found["classifier/old_kernel"] = kernel[:, :NUM_OLD]
    return found | {"classifier/new_kernel": kernel[:, NUM_OLD:]}


@pytest.mark.parametrize("transfer", [False, True], ids=["plain", "transfer"])
@pytest.mark.parametrize("name", METHODS)
def test_losses_and_gradients_are_what_they_were(name, transfer):
    step, model = make_step(name, transfer)
    gradients, metrics = step.differentiate(make_batch())
    prefix = f"{name}|{'transfer' if transfer else 'plain'}|"
    with np.load(EXPECTED) as arrays:
        expected = {k.removeprefix(prefix): arrays[k] for k in arrays if k.startswith(prefix)}
    means = step.means(metrics.numpy())
    for part in step.figure_names:
        assert means[part] == pytest.approx(float(expected.pop(f"loss|{part}")), rel=1e-5), part
    found = by_name(step, model, gradients)
    if name == "lucir":  # old classes' weights were no trained variable
        np.testing.assert_array_equal(found.pop("classifier/old_kernel"), 0)
    assert {f"gradient|{path}" for path in found} == set(expected)
    for path, gradient in found.items():
        then = expected[f"gradient|{path}"]
        np.testing.assert_allclose(sample(gradient), then, atol=1e-5 * then[0], err_msg=path)


def test_unseen_classes_get_no_gradient():
    step, model = make_step("lwf", transfer=False)
    gradients, _ = step.differentiate(make_batch())
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        if variable.path.startswith("classifier/"):
            assert variable.shape[-1] == 64
            np.testing.assert_array_equal(gradient[..., NUM_OLD + NUM_NEW :], 0)
            assert np.abs(gradient[..., : NUM_OLD + NUM_NEW]).max() > 0


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.slow
def test_a_batch_that_is_filled_up_gives_the_same_step(name):
    """XLA compiles by shape: placeholders of weight 0 count nowhere."""
    batch = make_batch()
    filled = {
        "image": tf.concat([batch["image"], 100 + tf.zeros([3, 8, 8, 3])], axis=0),
        "label": tf.concat([batch["label"], tf.zeros([3], tf.int32)], axis=0),
        "weight": tf.concat([batch["weight"], tf.zeros([3])], axis=0),
    }
    plain, model = make_step(name, transfer=True)
    gradients, metrics = plain.differentiate(batch)
    statistics = model.state()
    compiled, other = make_step(name, transfer=True, jit_compile=True)
    ours, our_metrics = compiled.differentiate(filled)  # in plain operations, eagerly
    np.testing.assert_allclose(our_metrics, metrics, rtol=1e-4)
    assert metrics.shape == [2 * METRICS]
    for mine, expected in zip(ours, gradients, strict=True):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(mine, expected, atol=1e-4 * scale)
    for path, value in other.state().items():
        np.testing.assert_allclose(value, statistics[path], atol=1e-5, err_msg=path)
