"""Every metric, named and defined once. Accuracies are fractions in [0, 1]."""

from collections.abc import Sequence

import numpy as np


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Share of right predictions: mean of [prediction = label]."""
    return float(np.mean(labels == predictions))


def group_accuracies(
    labels: np.ndarray, predictions: np.ndarray, groups: Sequence[Sequence[int]]
) -> list[float]:
    """Accuracy on the test images of each class group, a group being the new classes of one phase.

    Row i of the phase x class-group matrix. Predictions may be any seen class.

    Args:
        labels: `[n]`.
        predictions: `[n]`.
        groups: the labels of each group.
    """
    return [
        accuracy(labels[mask], predictions[mask])
        for mask in (np.isin(labels, list(group)) for group in groups)
    ]


def average_accuracy(phase_accuracies: Sequence[float]) -> float:
    """Average incremental accuracy: 1 / (N + 1) * sum_{i=0..N} A_i.

    A_i is the accuracy of Theta_i on the test data of all classes seen by phase i (paper, Table 1).
    """
    return float(np.mean(phase_accuracies))


def forgetting(matrix: Sequence[Sequence[float]]) -> float:
    """Forgetting rate F = A_0^Z - A_N^Z: the accuracy on phase 0's test data lost since phase 0.

    The paper's Table 1 prints the difference the other way round; its text and its figures are as
    here: positive when something was forgotten, lower is better.

    Args:
        matrix: row i holds the group accuracies of Theta_i; A_i^Z is its first entry.
    """
    return matrix[0][0] - matrix[-1][0]


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts `[true, predicted]`, int64 `[num_classes, num_classes]`."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (labels, predictions), 1)
    return matrix
