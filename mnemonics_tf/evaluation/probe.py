"""What exemplars are worth: the accuracy of a fresh classifier on them, and their margins."""

import numpy as np
import tensorflow as tf

from mnemonics_tf.evaluation.metrics import accuracy, mean_class_accuracy
from mnemonics_tf.norms import unit_length

_STEPS = 200
_MOMENTUM = 0.9


def probe_accuracy(
    features: np.ndarray,
    labels: np.ndarray,
    held_out_features: np.ndarray,
    held_out_labels: np.ndarray,
    by_class: bool = False,
) -> float:
    """Returns the accuracy, on held-out data, of softmax regression trained on exemplars only.

    Features are scaled to length sqrt(d). The problem is convex and starts at zero, so the score
    depends on the exemplars alone: 200 steps of gradient descent with momentum, at one over the
    loss's largest possible curvature d / 2. It decides which exemplars a run keeps, so that it must
    not depend on whether an optional package (scikit-learn) is there, and in which version.

    Args:
        features: of the exemplars, `[n, d]`.
        labels: `[n]`.
        held_out_features: `[m, d]`.
        held_out_labels: `[m]`; classes without an exemplar can't be predicted.
        by_class: return the mean of the classes' accuracies, where they have unlike numbers.
    """
    classes, targets = np.unique(labels, return_inverse=True)
    weights = _regress(_scaled(features), tf.one_hot(targets, len(classes)))
    predicted = classes[np.argmax(_scaled(held_out_features) @ weights.numpy(), axis=1)]
    metric = mean_class_accuracy if by_class else accuracy
    return metric(held_out_labels, predicted)


def margins(labels: np.ndarray, logits: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Returns each image's distance to the nearest decision boundary in feature space, `[n]`.

    min_{j != y} (z_y - z_j) / ||w_y - w_j||, negative on the wrong side. It is exact for a linear
    classifier; for a cosine classifier pass L2-normalised features' logits and weights.

    Args:
        labels: `[n]`.
        logits: `[n, classes]`.
        kernel: `[d, classes]`.
    """
    rows = np.arange(len(labels))
    gaps = logits[rows, labels][:, None] - logits
    squares = np.sum(np.square(kernel), axis=0)
    distances = squares[labels][:, None] + squares[None] - 2 * kernel[:, labels].T @ kernel
    result = gaps / np.sqrt(np.maximum(distances, 1e-12))
    result[rows, labels] = np.inf
    return result.min(axis=1)


def _scaled(features: np.ndarray) -> np.ndarray:
    return (unit_length(features) * np.sqrt(features.shape[1])).astype(np.float32)


@tf.function(reduce_retracing=True)
def _regress(features, targets):
    weights = tf.zeros([tf.shape(features)[1], tf.shape(targets)[1]])
    velocity = tf.zeros_like(weights)
    count = tf.cast(tf.shape(features)[0], tf.float32)
    rate = 2.0 / tf.cast(tf.shape(features)[1], tf.float32)
    for _ in tf.range(_STEPS):
        error = tf.nn.softmax(features @ weights) - targets
        gradient = tf.matmul(features, error, transpose_a=True) / count
        velocity = _MOMENTUM * velocity + gradient
        weights -= rate * velocity
    return weights
