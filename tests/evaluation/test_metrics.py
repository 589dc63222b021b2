import numpy as np
import pytest

from mnemonics_tf.evaluation import metrics

# Phase 0 taught 0 and 1, phase 1 taught 2.
LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2])
PREDICTIONS = np.array([0, 0, 2, 1, 1, 2, 2, 0])


def test_accuracy():
    assert metrics.accuracy(LABELS, PREDICTIONS) == 4 / 8


def test_accuracy_by_group():
    groups = [range(2), range(2, 3)]
    assert metrics.group_accuracies(LABELS, PREDICTIONS, groups) == [3 / 6, 1 / 2]
    assert metrics.group_accuracies(LABELS, PREDICTIONS, [[1], [0, 2]]) == [1 / 2, 3 / 6]


def test_what_was_not_tested_has_no_number():
    """Neither has what would need it: not even a class among others may be missing."""
    groups = [range(2), range(2, 4)]
    assert metrics.group_accuracies(LABELS, PREDICTIONS, groups) == [3 / 6, None]
    assert metrics.accuracy_on(LABELS, PREDICTIONS, range(4)) is None
    assert metrics.average_accuracy([0.5, None]) is None
    assert metrics.forgetting([[None], [0.5, 0.5]]) is None
    assert metrics.forgetting([[0.9], [None, 0.5], [0.5, 0.5, 0.5]]) == pytest.approx(0.4)
    assert metrics.mean_forgetting([[0.5], [None, 0.5]]) is None
    assert metrics.backward_transfer([[0.5], [None, 0.5]]) is None
    confusion = np.array([[0, 0], [1, 3]])
    assert metrics.old_new_accuracy(confusion, 1) == (None, 0.75)


def test_average_accuracy_gives_every_phase_the_same_weight():
    assert metrics.average_accuracy([0.8, 0.5, 0.2]) == pytest.approx(0.5)
    assert metrics.average_accuracy([0.7]) == pytest.approx(0.7)


def test_forgetting_is_what_the_first_group_lost():
    matrix = [[0.9], [0.7, 0.8], [0.6, 0.5, 0.95]]
    assert metrics.forgetting(matrix) == pytest.approx(0.3)
    assert metrics.forgetting([[0.5], [0.75, 0.1]]) == pytest.approx(-0.25)  # it got better
    assert metrics.forgetting([[0.9]]) == 0


MATRIX = [[0.9], [0.7, 0.8], [0.8, 0.5, 0.95]]


def test_mean_forgetting_is_the_loss_from_each_group_s_best():
    assert metrics.mean_forgetting(MATRIX) == pytest.approx((0.1 + 0.3) / 2)
    # A group that was best in a phase between counts from there.
    assert metrics.mean_forgetting([[0.5], [0.7, 0.8], [0.6, 0.9, 1]]) == pytest.approx(0.0)
    assert metrics.mean_forgetting([[0.9]]) == 0


def test_backward_transfer_is_the_change_since_a_group_was_learned():
    assert metrics.backward_transfer(MATRIX) == pytest.approx((-0.1 - 0.3) / 2)
    assert metrics.backward_transfer([[0.5], [0.75, 0.1]]) == pytest.approx(0.25)
    assert metrics.backward_transfer([[0.9]]) == 0


def test_accuracy_on_old_and_on_new_classes():
    confusion = metrics.confusion_matrix(LABELS, PREDICTIONS, 3)
    assert metrics.old_new_accuracy(confusion, 2) == (3 / 6, 1 / 2)
    assert metrics.old_new_accuracy(confusion, 0) == (None, 4 / 8)


def test_confusion_matrix_has_true_classes_as_rows():
    matrix = metrics.confusion_matrix(LABELS, PREDICTIONS, 4)
    assert matrix.tolist() == [[2, 1, 1, 0], [0, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("seed", range(5))
def test_no_constant_on_new_logits_is_better_than_the_best(seed):
    generator = np.random.default_rng(seed)
    logits = np.round(generator.normal(size=(60, 6)), 1)  # with ties
    logits[:, 4:] += 1
    labels = generator.integers(0, 6, 60)

    def with_constant(constant):
        return metrics.accuracy(labels, (logits + constant * (np.arange(6) >= 4)).argmax(axis=1))

    constant, best = metrics.best_constant(labels, logits, 4)
    assert best == pytest.approx(with_constant(constant))
    assert best >= max(with_constant(c) for c in np.linspace(-6, 6, 481)) - 1e-9


def test_a_constant_that_gains_nothing_is_none():
    labels, logits = np.array([0, 1, 2]), 3.0 * np.eye(3)
    assert metrics.best_constant(labels, logits, 2) == (0.0, 1.0)
    far = np.array([[20.0, 0, 0], [20.0, 0, 0], [0, 20.0, 0]])  # old classes far ahead, and right
    assert metrics.best_constant(np.array([0, 0, 1]), far, 2) == (0.0, 1.0)
    assert metrics.best_constant(np.array([2, 2, 0]), far[:, [1, 2, 0]], 2) == (0.0, 1.0)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_right_class_is_among_the_first_k(k):
    generator = np.random.default_rng(0)
    scores = np.round(generator.normal(size=(200, 25)), 1)  # with ties
    labels = generator.integers(0, 25, 200)
    ranked = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    expected = (ranked == labels[:, np.newaxis]).any(axis=1)
    np.testing.assert_array_equal(metrics.in_top(labels, scores, k), expected)
    if k == 1:
        np.testing.assert_array_equal(expected, scores.argmax(axis=1) == labels)
