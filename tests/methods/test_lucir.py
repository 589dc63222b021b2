import math

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.protocol import ClassIncrementalProtocol
from mnemonics_tf.methods.lucir import LUCIR, less_forget, margin_ranking
from mnemonics_tf.models.architecture import Architecture
from mnemonics_tf.models.incremental import IncrementalModel, Outputs
from mnemonics_tf.settings import TrainingSettings
from tools.check_against_pytorch import OPTIMIZATION, make_case, split_kernel, step

PHASE = ClassIncrementalProtocol(range(6), 3, 1).phases[1]  # 3 old classes, 3 new ones
FEATURES = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0], [-1.5, 0.25, 2.0]], np.float32)
OLD_FEATURES = np.array([[0.5, -1.0, 0.75], [1.0, -2.0, 0.5], [-3.0, 0.5, 4.0]], np.float32)
# torch.nn.CosineEmbeddingLoss(reduction="none")(FEATURES, OLD_FEATURES, ones), PyTorch 2.13
LESS_FORGET = [0.0679929668, 1.8970852271, 0.0]

COSINES = np.array(
    [
        [0.6, -0.2, 0.1, 0.3, -0.4, 0.5],
        [0.1, 0.8, 0.2, 0.1, -0.3, 0.0],
        [-0.1, 0.4, 0.3, 0.2, 0.7, -0.6],
        [0.3, -0.5, 0.2, 0.9, -0.1, 0.4],
    ],
    np.float32,
)
LABELS = np.array([0, 1, 4, 2], np.int32)
# Of the rows 0, 1, 3 of old classes: torch.nn.MarginRankingLoss(0.5)(cosine of the true class,
# K largest cosines of new classes, ones), PyTorch 2.13: by row with reduction="none", and the mean.
RANKING = {
    1: ([0.4, 0.0, 1.2], 0.5333333333),
    2: ([0.3, 0.0, 0.95], 0.4166666667),
    3: ([0.2, 0.0, 0.7], 0.3),
}

#: mean parts of the case `lucir` of tools/check_against_pytorch.py, by PyTorch 2.13
PYTORCH_PARTS = {
    "part:classification": 1.91832139,
    "part:less_forget": 5.78367039,
    "part:margin_ranking": 0.51074965,
}


def make_batch(labels=LABELS) -> dict[str, tf.Tensor]:
    return {
        "label": tf.constant(labels),
        "weight": tf.fill([len(labels)], 1 / len(labels)),
    }


# Losses


def test_less_forget_of_each_example():
    np.testing.assert_allclose(less_forget(FEATURES, OLD_FEATURES), LESS_FORGET, atol=1e-6)


@pytest.mark.parametrize("top", RANKING)
def test_margin_ranking_of_each_example(top):
    ranking = margin_ranking(tf.constant(COSINES), tf.constant(LABELS), 3.0, 6.0, 0.5, top)
    by_row, mean = RANKING[top]
    np.testing.assert_allclose(ranking, [*by_row[:2], 0.0, by_row[2]], atol=1e-6)
    outputs = Outputs(tf.constant(np.ones([4, 3], np.float32)), tf.constant(COSINES))
    old_outputs = Outputs(outputs.features, None, num_seen=3.0)
    method = LUCIR(TrainingSettings(ranking_classes=top))
    part = method.loss_parts(make_batch(), outputs, old_outputs)["margin_ranking"]
    assert part.examples.numpy().tolist() == [True, True, False, True]
    assert part.values[part.examples].numpy().mean() == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("top", [1, 2, 3, 9])
def test_ranking_sees_new_classes_alone_where_there_is_room_for_more(top):
    wide = np.pad(COSINES, [(0, 0), (0, 58)], constant_values=0.99)  # whatever stands there
    ours = margin_ranking(tf.constant(wide), tf.constant(LABELS), 3.0, tf.constant(6.0), 0.5, top)
    expected = margin_ranking(tf.constant(COSINES), tf.constant(LABELS), 3.0, 6.0, 0.5, top)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_fewer_new_classes_than_ranked_ones():
    few = margin_ranking(tf.constant(COSINES), tf.constant(LABELS), 3.0, 6.0, 0.5, 9)
    np.testing.assert_allclose(few, [0.2, 0.0, 0.0, 0.7], atol=1e-6)


@pytest.mark.parametrize(("base", "classes", "num_old"), [(5.0, 6, 3), (10.0, 8, 6)])
def test_parts_with_their_factors(base, classes, num_old):
    method = LUCIR(TrainingSettings(less_forget_weight=base))
    generator = np.random.default_rng(0)
    cosines = generator.uniform(-1, 1, (3, classes)).astype(np.float32)
    outputs = Outputs(tf.constant(FEATURES), tf.constant(4 * cosines), tf.constant(4.0))
    old_outputs = Outputs(tf.constant(OLD_FEATURES), None, num_seen=float(num_old))
    parts = method.loss_parts(make_batch([0, 1, classes - 1]), outputs, old_outputs)
    factor = base * math.sqrt(num_old / (classes - num_old))
    np.testing.assert_allclose(parts["less_forget"], factor * np.array(LESS_FORGET), atol=1e-5)
    # The cosines of the ranking are without the learned scale; one image in three is of no old
    # class, and the mean is over the others.
    hardest = np.sort(cosines[:2, num_old:], axis=1)[:, -2:]
    ranking = np.maximum(0, 0.5 - cosines[[0, 1], [0, 1]][:, None] + hardest).mean(axis=1)
    np.testing.assert_allclose(parts["margin_ranking"].values, [*ranking, 0.0], rtol=1e-5)
    assert parts["margin_ranking"].examples.numpy().tolist() == [True, True, False]
    assert set(parts) == {"classification", "less_forget", "margin_ranking"}


def test_phase_0_has_the_classification_alone():
    outputs = Outputs(None, tf.constant(COSINES), tf.constant(1.0))
    parts = LUCIR(TrainingSettings()).loss_parts(make_batch(), outputs, None)
    assert set(parts) == {"classification"}


def test_a_batch_without_old_images():
    labels = np.array([3, 4, 5, 3], np.int32)
    watched = tf.constant(COSINES)
    features = tf.constant(np.ones([4, 3], np.float32))
    with tf.GradientTape() as tape:
        tape.watch(watched)
        outputs = Outputs(features, watched, tf.constant(1.0))
        parts = LUCIR(TrainingSettings()).loss_parts(
            make_batch(labels), outputs, Outputs(features, None, num_seen=3.0)
        )
        ranking = tf.reduce_sum(parts["margin_ranking"].values)
        assert not np.any(parts["margin_ranking"].examples)
    assert float(ranking) == 0.0
    np.testing.assert_array_equal(tape.gradient(ranking, watched), np.zeros_like(COSINES))


# A step of a whole network


@pytest.fixture(scope="module")
def stepped():
    """Variables before a step, and what the step left."""
    case = make_case("lucir", transfer=False)
    before = split_kernel(case.model.state(), case.phase.num_old)
    return before, step(case)


@pytest.mark.slow
def test_parts_of_a_whole_network_are_those_of_pytorch(stepped):
    _, results = stepped
    parts = {key: float(results[key]) for key in results if key.startswith("part:")}
    assert parts == pytest.approx(PYTORCH_PARTS, rel=1e-5)


def test_weights_of_old_classes_are_frozen_and_others_learn(stepped):
    before, results = stepped
    assert OPTIMIZATION.weight_decay > 0
    old = "classifier/old_kernel"
    np.testing.assert_array_equal(results[f"model:{old}"], before[old])
    for path in ("classifier/new_kernel", "classifier/scale", "stem/kernel"):
        assert np.abs(results[f"model:{path}"] - before[path]).max() > 1e-4


# Imprinting


def test_new_classes_start_at_the_mean_of_their_features():
    architecture = Architecture("resnet_cifar", 8, (8, 8, 1), "cosine")
    model = IncrementalModel(architecture, 0, 3, seed=0)
    model.grow(3)
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(64, 6)).astype(np.float32)
    model.classifier.set_kernel(kernel)
    features = {label: generator.normal(1, 1, (5, 64)) for label in (3, 4, 5)}
    LUCIR(TrainingSettings()).initialise_new_classes(model, PHASE, features.__getitem__)

    expected = kernel.copy()
    old_norm = np.mean([np.sqrt(np.sum(kernel[:, k] ** 2)) for k in range(3)])
    for label, rows in features.items():
        mean = np.mean([row / np.sqrt(np.sum(row**2)) for row in rows], axis=0)
        expected[:, label] = old_norm * mean / np.sqrt(np.sum(mean**2))
    np.testing.assert_allclose(model.classifier.seen_kernel(), expected, atol=1e-6)


def test_phase_0_is_not_imprinted():
    architecture = Architecture("resnet_cifar", 8, (8, 8, 1), "cosine")
    model = IncrementalModel(architecture, 0, 3, seed=0)
    before = model.state()
    phase = ClassIncrementalProtocol(range(3), 3, 0).phases[0]
    LUCIR(TrainingSettings()).initialise_new_classes(model, phase, features_of=None)
    for path, value in model.state().items():
        np.testing.assert_array_equal(value, before[path])
