"""Exemplars' class means classify real data: value and gradient against what NumPy says."""

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.bilevel.objectives import OBJECTIVES
from mnemonics_tf.settings import InnerSettings, OuterSettings

LABELS = np.array([3, 7, 3, 7, 9, 3])
ALL = np.ones(len(LABELS), bool)
WEIGHTS = np.random.default_rng(0).normal(size=(12, 5))


class Tanh:
    """In place of a network: features are tanh of a linear map, in float64."""

    on_features = True
    images_at_once = 256

    def encode(self, images):
        return tf.tanh(tf.reshape(images, [-1, 12]) @ WEIGHTS)


def make_objective(scale: float = 1.0):
    outer = OuterSettings(gradient_scale=scale)
    return OBJECTIVES["class_means"](Tanh(), InnerSettings(), outer, seed=0)


def make_data(count: int = 11):
    generator = np.random.default_rng(1)
    exemplars = generator.normal(size=(len(LABELS), 2, 2, 3))
    return (
        exemplars,
        generator.normal(size=(count, 2, 2, 3)),
        np.array([3, 7, 9])[generator.integers(3, size=count)],
    )


def measure(objective, exemplars, outer, learning=ALL):
    return objective.value_and_gradient(tf.constant(exemplars), LABELS, learning, outer, "step", 0)


def by_numpy(exemplars, images, labels) -> float:
    def features(pixels):
        return np.tanh(pixels.reshape(-1, 12) @ WEIGHTS)

    means = np.stack([features(exemplars[k == LABELS]).mean(axis=0) for k in (3, 7, 9)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    real = features(images)
    logits = real / np.linalg.norm(real, axis=1, keepdims=True) @ means.T
    chosen = logits[np.arange(len(labels)), np.searchsorted([3, 7, 9], labels)]
    return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - chosen))


def test_value_and_gradient_are_what_numpy_and_differences_say():
    exemplars, images, labels = make_data()
    outer = {"image": tf.constant(images), "label": tf.constant(labels)}
    value, gradient = measure(make_objective(), exemplars, outer)
    assert float(value) == pytest.approx(by_numpy(exemplars, images, labels), rel=1e-12)
    direction = np.random.default_rng(2).normal(size=exemplars.shape)
    ahead, behind = (by_numpy(exemplars + s * direction, images, labels) for s in (1e-6, -1e-6))
    assert np.vdot(gradient, direction) == pytest.approx((ahead - behind) / 2e-6, rel=1e-7)


def test_the_outer_batch_may_come_as_features_with_weights():
    exemplars, images, labels = make_data()
    outer = {"image": tf.constant(images), "label": tf.constant(labels)}
    value, gradient = measure(make_objective(), exemplars, outer)
    weighted = {
        "feature": Tanh().encode(tf.constant(images)),
        "label": tf.constant(labels),
        "weight": tf.fill([11], tf.constant(1 / 11, tf.float64)),
    }
    same, same_gradient = measure(make_objective(), exemplars, weighted)
    assert float(same) == pytest.approx(float(value), rel=1e-12)
    np.testing.assert_allclose(same_gradient, gradient, rtol=1e-10)


def test_rows_that_do_not_learn_have_no_gradient_and_the_scale_is_a_factor():
    exemplars, images, labels = make_data()
    outer = {"image": tf.constant(images), "label": tf.constant(labels)}
    learning = LABELS != 7
    value, gradient = measure(make_objective(), exemplars, outer)
    scaled_value, scaled = measure(make_objective(scale=10.0), exemplars, outer, learning)
    assert float(scaled_value) == float(value)
    np.testing.assert_array_equal(scaled.numpy()[~learning], 0)
    np.testing.assert_allclose(scaled.numpy()[learning], 10 * gradient.numpy()[learning])
