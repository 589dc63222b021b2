"""Every metric, named and defined once. Accuracies are fractions in [0, 1].

What was not tested is None, and so is every metric that would need it.
"""

from collections.abc import Sequence

import numpy as np


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Share of right predictions: mean of [prediction = label]."""
    return float(np.mean(labels == predictions))


def mean_class_accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Mean over the classes that `labels` has of each one's accuracy, whatever its images' number.

    Args:
        labels: `[n]`.
        predictions: `[n]`.
    """
    right = labels == predictions
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


def accuracy_on(
    labels: np.ndarray, predictions: np.ndarray, classes: Sequence[int]
) -> float | None:
    """Accuracy on the test images of some classes; None unless there are some of each.

    Predictions may be any seen class.

    Args:
        labels: `[n]`.
        predictions: `[n]`.
        classes: their labels.
    """
    tested = np.isin(labels, list(classes))
    if len(np.unique(labels[tested])) < len(classes):
        return None
    return accuracy(labels[tested], predictions[tested])


def in_top(labels: np.ndarray, scores: np.ndarray, k: int) -> np.ndarray:
    """Whether the right class is among the k of the highest scores, bool `[n]`.

    Of classes with equal scores the lower label stands first, as in the prediction.

    Args:
        labels: `[n]`.
        scores: `[n, classes]`.
        k: how many count.
    """
    right = np.take_along_axis(scores, labels[:, np.newaxis].astype(np.int64), axis=1)
    before = np.arange(scores.shape[1]) < labels[:, np.newaxis]
    higher = (scores > right) | ((scores == right) & before)
    return higher.sum(axis=1) < k


def group_accuracies(
    labels: np.ndarray, predictions: np.ndarray, groups: Sequence[Sequence[int]]
) -> list[float | None]:
    """Accuracy on the test images of each class group, a group being the new classes of one phase.

    Row i of the phase x class-group matrix.

    Args:
        labels: `[n]`.
        predictions: `[n]`.
        groups: the labels of each group.
    """
    return [accuracy_on(labels, predictions, group) for group in groups]


def average_accuracy(phase_accuracies: Sequence[float | None]) -> float | None:
    """Average incremental accuracy: 1 / (N + 1) * sum_{i=0..N} A_i.

    A_i is the accuracy of Theta_i on the test data of all classes seen by phase i (paper, Table 1).
    """
    measured = [value for value in phase_accuracies if value is not None]
    return float(np.mean(measured)) if len(measured) == len(phase_accuracies) else None


def forgetting(matrix: Sequence[Sequence[float | None]]) -> float | None:
    """Forgetting rate F = A_0^Z - A_N^Z: the accuracy on phase 0's test data lost since phase 0.

    The paper's Table 1 prints the difference the other way round; its text and its figures are as
    here: positive when something was forgotten, lower is better.

    Args:
        matrix: row i holds the group accuracies of Theta_i; A_i^Z is its first entry.
    """
    first, last = matrix[0][0], matrix[-1][0]
    return None if first is None or last is None else first - last


def mean_forgetting(matrix: Sequence[Sequence[float | None]]) -> float | None:
    """Mean over the earlier groups of what each lost from its best: the usual forgetting measure.

    1 / N * sum_{j<N} (max_{l<N} a_{l,j} - a_{N,j}), with a_{i,j} the accuracy of Theta_i on
    group j; 0 where there is one phase only.

    Source: Chaudhry et al., Riemannian Walk for Incremental Learning, ECCV 2018, Section 3.3.

    Args:
        matrix: row i holds the group accuracies of Theta_i.
    """
    measured = [[value for value in row if value is not None] for row in matrix]
    *earlier, last = measured
    if list(map(len, measured)) != list(map(len, matrix)):
        return None if earlier else 0.0
    lost = [max(row[j] for row in earlier[j:]) - last[j] for j in range(len(earlier))]
    return float(np.mean(lost)) if lost else 0.0


def backward_transfer(matrix: Sequence[Sequence[float | None]]) -> float | None:
    """BWT: mean change of each earlier group's accuracy since it was learned.

    1 / N * sum_{j<N} (a_{N,j} - a_{j,j}): negative when something was forgotten; 0 where there is
    one phase only.

    Source: Lopez-Paz and Ranzato, Gradient Episodic Memory, NeurIPS 2017, Eq. 3.

    Args:
        matrix: row i holds the group accuracies of Theta_i.
    """
    *earlier, last = matrix
    changes = []
    for j, row in enumerate(earlier):
        now, then = last[j], row[j]
        if now is None or then is None:
            return None
        changes.append(now - then)
    return float(np.mean(changes)) if changes else 0.0


def old_new_accuracy(confusion: np.ndarray, num_old: int) -> tuple[float | None, float | None]:
    """Accuracy on the test images of old and of new classes; None unless there are some of each.

    Args:
        confusion: counts `[true, predicted]`, old classes first.
        num_old: how many of them are old.
    """
    right, counts = np.diag(confusion), np.sum(confusion, axis=1)
    parts = (slice(None, num_old), slice(num_old, None))
    old, new = (
        float(right[part].sum() / counts[part].sum())
        if len(counts[part]) and np.all(counts[part])
        else None
        for part in parts
    )
    return old, new


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts `[true, predicted]`, int64 `[num_classes, num_classes]`."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (labels, predictions), 1)
    return matrix


def best_constant(labels: np.ndarray, logits: np.ndarray, num_old: int) -> tuple[float, float]:
    """Constant on the logits of new classes that makes the most predictions right, and accuracy.

    c = argmax_c mean[argmax_k (z_k + c [k new]) = label]. Chosen on the very images it is measured
    on, it is no result: it tells how much of the error is a bias between old and new classes, which
    a constant could undo, and how much is not.

    Args:
        labels: `[n]`.
        logits: `[n, classes]`.
        num_old: classes below it are old; some are, and some are not.

    Returns:
        The constant, the smallest in size among the best, and the accuracy with it.
    """
    old, new = logits[:, :num_old], logits[:, num_old:]
    # Above its margin the best new class wins, below it the best old one.
    margins = old.max(axis=1).astype(np.float64) - new.max(axis=1)
    gains = (num_old + new.argmax(axis=1) == labels).astype(int) - (old.argmax(axis=1) == labels)
    order = np.argsort(margins, kind="stable")
    right = np.sum(old.argmax(axis=1) == labels) + np.concatenate([[0], np.cumsum(gains[order])])
    edges = np.concatenate([[-np.inf], margins[order], [np.inf]])
    # Between two margins that are equal, but for rounding, no constant lies.
    possible = np.diff(edges) > 1e-6
    inside = (edges[:-1] < 0) & (edges[1:] > 0)
    within = np.clip(edges, margins.min() - 2, margins.max() + 2)
    constants = np.where(inside, 0.0, (within[:-1] + within[1:]) / 2)
    best = np.flatnonzero(possible & (right == right[possible].max()))
    chosen = best[np.argmin(np.abs(constants[best]))]
    return float(constants[chosen]), float(right[chosen] / len(labels))
