import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.methods import METHODS
from mnemonics_tf.methods.base import cross_entropy, distillation
from mnemonics_tf.models.classifiers import MASKED
from mnemonics_tf.models.incremental import Outputs
from mnemonics_tf.settings import TrainingSettings


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return 4 * np.random.default_rng(seed).normal(size=shape)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax by its definition, row by row."""
    return np.stack([np.exp(row) / sum(np.exp(value) for value in row) for row in logits])


def distillation_by_definition(logits, old_logits, temperature) -> list[float]:
    """Eq. 1: both distributions with exponent 1 / tau, normalised over the old classes."""
    losses = []
    for new, old in zip(logits, old_logits, strict=True):
        softened_old = probabilities(old[None])[0] ** (1 / temperature)
        softened_new = probabilities(new[None, : len(old)])[0] ** (1 / temperature)
        target = softened_old / softened_old.sum()
        predicted = softened_new / softened_new.sum()
        losses.append(-sum(p * np.log(q) for p, q in zip(target, predicted, strict=True)))
    return losses


def parts_of(method: str, weight: float, old_logits, logits, labels) -> dict[str, np.ndarray]:
    method = METHODS[method](TrainingSettings(classification_weight=weight, temperature=2.0))
    outputs = Outputs(None, tf.constant(logits))
    old_outputs = None if old_logits is None else Outputs(None, tf.constant(old_logits))
    parts = method.loss_parts({"label": tf.constant(labels)}, outputs, old_outputs)
    return {name: part.numpy() for name, part in parts.items()}


def test_cross_entropy_of_each_example():
    logits, labels = random(6, 5), np.array([0, 4, 2, 2, 1, 3])
    expected = [-np.log(row[k]) for row, k in zip(probabilities(logits), labels, strict=True)]
    np.testing.assert_allclose(cross_entropy(labels, tf.constant(logits)), expected, rtol=1e-12)


def test_losses_are_those_of_pytorch():
    logits = [
        [1.5, -0.5, 0.25, 2.0, -1.0, 0.5],
        [-2.0, 3.0, 0.75, -0.25, 1.25, 0.0],
        [0.5, 0.25, -1.5, -0.75, 2.5, 1.0],
        [0.0, -1.0, 2.25, 0.5, -0.5, 1.75],
    ]
    old_logits = [[2.0, -1.0, 0.5], [-1.5, 2.5, 0.0], [1.0, 0.0, -2.0], [0.25, -0.75, 1.5]]
    logits, old_logits = tf.constant(logits, tf.float64), tf.constant(old_logits, tf.float64)
    # torch.nn.functional.cross_entropy(logits, labels, reduction="none"), PyTorch 2.13
    expected = [1.2586103508, 3.568069942, 0.4193381079, 0.6873332608]
    np.testing.assert_allclose(cross_entropy([0, 3, 4, 2], logits), expected, rtol=1e-9)
    # With q = softmax(old_logits / 2): torch.nn.KLDivLoss(reduction="none")(
    # log_softmax(logits[:, :3] / 2, 1), q).sum(1), and the entropy -(q * q.log()).sum(1)
    divergence = np.array([0.0149039571, 0.0117250502, 0.0216789245, 0.0303790037])
    entropy = np.array([0.9343287315, 0.7941967909, 0.952807564, 0.9967693416])
    ours = distillation(logits, old_logits, 2.0)
    np.testing.assert_allclose(ours, divergence + entropy, rtol=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_distillation_of_each_example(temperature):
    logits, old_logits = random(6, 5), random(6, 3, seed=1)
    expected = distillation_by_definition(logits, old_logits, temperature)
    ours = distillation(tf.constant(logits), tf.constant(old_logits), temperature)
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_distillation_does_not_see_the_new_classes():
    logits, old_logits = random(6, 5), tf.constant(random(6, 3, seed=1))
    changed = logits.copy()
    changed[:, 3:] = random(6, 2, seed=2)
    watched = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(watched)
        loss = distillation(watched, old_logits, 2.0)
    np.testing.assert_array_equal(loss, distillation(tf.constant(changed), old_logits, 2.0))
    gradient = tape.gradient(loss, watched).numpy()
    assert not gradient[:, 3:].any()
    assert gradient[:, :3].all()


def test_distillation_is_least_where_the_old_model_is_matched():
    old_logits = random(1, 3)
    watched = tf.constant(np.concatenate([old_logits + 7, [[1.0, 2.0]]], axis=1))
    with tf.GradientTape() as tape:
        tape.watch(watched)
        loss = distillation(watched, tf.constant(old_logits), 2.0)
    np.testing.assert_allclose(tape.gradient(loss, watched), np.zeros([1, 5]), atol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_lwf_weighs_its_two_parts(weight):
    logits, old_logits, labels = random(6, 5), random(6, 3, seed=1), np.array([0, 4, 2, 2, 1, 3])
    parts = parts_of("lwf", weight, old_logits, logits, labels)
    assert set(parts) == {"classification", "distillation"}
    classification = [-np.log(row[k]) for row, k in zip(probabilities(logits), labels, strict=True)]
    distilled = distillation_by_definition(logits, old_logits, 2.0)
    np.testing.assert_allclose(parts["classification"], weight * np.array(classification))
    np.testing.assert_allclose(parts["distillation"], (1 - weight) * np.array(distilled))


def test_lwf_in_phase_0_is_plain_cross_entropy():
    logits, labels = random(6, 5), np.array([0, 4, 2, 2, 1, 3])
    parts = parts_of("lwf", 0.3, None, logits, labels)
    assert set(parts) == {"classification"}
    np.testing.assert_allclose(parts["classification"], cross_entropy(labels, tf.constant(logits)))


def test_joint_training_does_not_distil():
    logits, labels = random(6, 5), np.array([0, 4, 2, 2, 1, 3])
    parts = parts_of("joint", 0.3, random(6, 3, seed=1), logits, labels)
    assert set(parts) == {"classification"}
    np.testing.assert_allclose(parts["classification"], cross_entropy(labels, tf.constant(logits)))


def test_only_joint_training_keeps_the_past():
    assert [name for name, method in METHODS.items() if method.keeps_past_data] == ["joint"]


def widened(logits: np.ndarray) -> tf.Tensor:
    """As a classifier with room for 64 classes gives them."""
    margin = 64 - logits.shape[1]
    return tf.constant(np.pad(logits, [(0, 0), (0, margin)], constant_values=MASKED))


@pytest.mark.parametrize("method", ["lwf", "icarl", "bic", "joint"])
def test_classes_that_were_not_seen_count_nowhere(method):
    logits, old_logits = (random(6, n, seed=n).astype(np.float32) for n in (5, 3))
    labels = np.array([0, 4, 2, 2, 1, 3])
    method = METHODS[method](TrainingSettings())
    narrow = Outputs(None, tf.constant(logits)), Outputs(None, tf.constant(old_logits))
    watched, num_seen = widened(logits), (tf.constant(5.0), tf.constant(3.0))
    with tf.GradientTape() as tape:
        tape.watch(watched)
        wide = (
            Outputs(None, watched, 1.0, num_seen[0]),
            Outputs(None, widened(old_logits), 1.0, num_seen[1]),
        )
        parts = method.loss_parts({"label": tf.constant(labels)}, *wide)
        loss = sum(tf.reduce_sum(part) for part in parts.values())
    expected = method.loss_parts({"label": tf.constant(labels)}, *narrow)
    assert parts.keys() == expected.keys()
    for name, part in parts.items():
        np.testing.assert_allclose(part, expected[name], rtol=1e-5)
    gradient = tape.gradient(loss, watched).numpy()
    np.testing.assert_array_equal(gradient[:, 5:], 0)
    assert np.all(gradient[:, :5])
