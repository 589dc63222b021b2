import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from mnemonics_tf.evaluation.probe import margins, probe_accuracy


def clusters(spread: float, per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes 3, 5 and 9 around three directions in 8 dimensions."""
    random = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(3, 8))
    labels = np.repeat([3, 5, 9], per_class)
    noise = spread * random.normal(size=(len(labels), 8))
    return np.repeat(centers, per_class, axis=0) + noise, labels


def test_separable_clusters_are_told_apart():
    train, test = clusters(0.05, 2, seed=0), clusters(0.05, 30, seed=1)
    assert probe_accuracy(*train, *test) == 1.0


def test_exemplars_with_wrong_labels_score_worse():
    (features, labels), test = clusters(0.05, 2, seed=0), clusters(0.05, 30, seed=1)
    assert probe_accuracy(features, np.roll(labels, 2), *test) == 0.0


def test_classes_of_unlike_numbers_count_alike():
    """Of three test images of one class all are right, of one of another none is."""
    features, labels = np.eye(2), np.array([3, 5])
    held_out, truth = np.eye(2)[[0, 0, 0, 0]], np.array([3, 3, 3, 5])
    assert probe_accuracy(features, labels, held_out, truth) == 0.75
    assert probe_accuracy(features, labels, held_out, truth, by_class=True) == 0.5


def test_the_score_is_that_of_softmax_regression():
    """Gradient descent by hand; and nearly that of a regularised solver on noisy classes."""
    (features, labels), (test, expected) = clusters(1.5, 20, seed=2), clusters(1.5, 200, seed=3)
    scaled = np.sqrt(8) * features / np.linalg.norm(features, axis=1, keepdims=True)
    scaled_test = np.sqrt(8) * test / np.linalg.norm(test, axis=1, keepdims=True)
    targets = (labels[:, None] == [3, 5, 9]).astype(float)
    weights, velocity = np.zeros((8, 3)), np.zeros((8, 3))
    for _ in range(200):
        error = np.exp(log_softmax(scaled @ weights, axis=1)) - targets
        velocity = 0.9 * velocity + scaled.T @ error / len(labels)
        weights -= 2 / 8 * velocity
    by_hand = np.mean(np.array([3, 5, 9])[np.argmax(scaled_test @ weights, axis=1)] == expected)

    score = probe_accuracy(features, labels, test, expected)
    assert score == pytest.approx(by_hand, abs=2 / 600)
    solver = LogisticRegression(C=100.0, fit_intercept=False).fit(scaled, labels)
    assert score == pytest.approx(solver.score(scaled_test, expected), abs=0.02)
    assert 0.5 < score < 0.95


def test_the_length_of_features_does_not_matter():
    (features, labels), test = clusters(1.5, 5, seed=4), clusters(1.5, 100, seed=5)
    lengths = np.random.default_rng(6).uniform(0.1, 10, (len(features), 1))
    assert probe_accuracy(lengths * features, labels, *test) == pytest.approx(
        probe_accuracy(features, labels, *test), abs=0.005
    )


def test_a_class_without_exemplars_counts_as_missed():
    (features, labels), test = clusters(0.05, 2, seed=0), clusters(0.05, 30, seed=1)
    known = labels != 9
    assert probe_accuracy(features[known], labels[known], *test) == pytest.approx(2 / 3)


def test_margins_are_distances_to_the_nearest_boundary():
    # z_0 = x, z_1 = -x, z_2 = 4 y in the plane: boundaries x = 0, and where 4 y = x or 4 y = -x.
    kernel = np.array([[1.0, -1.0, 0.0], [0.0, 0.0, 4.0]])
    points = np.array([[3.0, -2.0], [-1.0, -2.0], [0.0, 1.0], [3.0, 0.0]])
    labels = np.array([0, 0, 2, 0])
    expected = [
        11 / np.sqrt(17),  # from 4 y = x, which is nearer than x = 0
        -1.0,  # beyond x = 0
        4 / np.sqrt(17),
        3 / np.sqrt(17),
    ]
    np.testing.assert_allclose(margins(labels, points @ kernel, kernel), expected, atol=1e-6)


def test_margins_match_the_smallest_step_that_changes_the_winner():
    random = np.random.default_rng(7)
    kernel, points = random.normal(size=(3, 4)), random.normal(size=(20, 3))
    logits = points @ kernel
    labels = logits.argmax(axis=1)
    distances = margins(labels, logits, kernel)
    for point, label, distance in zip(points, labels, distances, strict=True):
        others = [k for k in range(4) if k != label]
        steps = [kernel[:, k] - kernel[:, label] for k in others]
        directions = [step / np.linalg.norm(step) for step in steps]

        def lost(length, point=point, label=label, directions=directions):
            return any(((point + length * d) @ kernel).argmax() != label for d in directions)

        assert not lost(0.999 * distance)
        assert lost(1.001 * distance)
