"""Exemplars beside their real images: value and gradient against what NumPy says."""

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.bilevel.objectives import OBJECTIVES, on_originals
from mnemonics_tf.settings import InnerSettings, OuterSettings

LABELS = np.array([3, 7, 3, 7, 9, 3])
ROWS = np.array([1, 2, 5])
LEARNS = np.isin(np.arange(len(LABELS)), ROWS)
WEIGHTS = np.random.default_rng(0).normal(size=(12, 5))
CLASSIFIER = np.random.default_rng(1).normal(size=(5, 4))


class Tanh:
    """In place of a network: features are tanh of a linear map, and logits linear, in float64."""

    on_features = True
    images_at_once = 256

    def encode(self, images):
        return tf.tanh(tf.reshape(images, [-1, 12]) @ WEIGHTS)

    def logits(self, features):
        return features @ CLASSIFIER


def make_objective(scale: float = 1.0):
    outer = OuterSettings(gradient_scale=scale)
    return OBJECTIVES["anchored"](Tanh(), InnerSettings(), outer, seed=0)


def make_data():
    generator = np.random.default_rng(2)
    exemplars = generator.normal(size=(len(LABELS), 2, 2, 3))
    return exemplars, exemplars[ROWS] + 0.3 * generator.normal(size=(len(ROWS), 2, 2, 3))


def measure(objective, exemplars, outer, learning=LEARNS):
    outer = {"row": tf.constant(ROWS, tf.int32), **outer}
    return objective.value_and_gradient(tf.constant(exemplars), LABELS, learning, outer, "step", 0)


def by_numpy(exemplars, originals) -> float:
    def outputs(pixels):
        features = np.tanh(pixels.reshape(-1, 12) @ WEIGHTS)
        exponentials = np.exp(features @ CLASSIFIER)
        return features, exponentials / exponentials.sum(axis=1, keepdims=True)

    ours, our_share = outputs(exemplars[ROWS])
    real, real_share = outputs(originals)
    distance = np.square(ours - real).sum(axis=1) / np.square(real).sum(axis=1)
    divergence = (real_share * np.log(real_share / our_share)).sum(axis=1)
    return float(np.mean(distance + divergence))


def test_value_and_gradient_are_what_numpy_and_differences_say():
    exemplars, originals = make_data()
    value, gradient = measure(make_objective(), exemplars, {"image": tf.constant(originals)})
    assert float(value) == pytest.approx(by_numpy(exemplars, originals), rel=1e-12)
    direction = np.random.default_rng(3).normal(size=exemplars.shape)
    ahead, behind = (by_numpy(exemplars + s * direction, originals) for s in (1e-6, -1e-6))
    assert np.vdot(gradient, direction) == pytest.approx((ahead - behind) / 2e-6, rel=1e-7)
    assert not np.any(gradient.numpy()[~LEARNS])


def test_originals_are_a_minimum():
    exemplars, _ = make_data()
    value, gradient = measure(make_objective(), exemplars, {"image": tf.constant(exemplars[ROWS])})
    assert float(value) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(gradient, np.zeros_like(exemplars), atol=1e-12)


def test_originals_may_come_as_features_with_weights_and_the_scale_is_a_factor():
    exemplars, originals = make_data()
    value, gradient = measure(make_objective(), exemplars, {"image": tf.constant(originals)})
    weighted = {
        "feature": Tanh().encode(tf.constant(originals)),
        "weight": tf.fill([len(ROWS)], tf.constant(1 / len(ROWS), tf.float64)),
    }
    same, scaled = measure(make_objective(7.0), exemplars, weighted)
    assert float(same) == pytest.approx(float(value), rel=1e-12)
    np.testing.assert_allclose(scaled, 7 * gradient, rtol=1e-9, atol=1e-15)


def test_one_that_does_not_learn_has_no_gradient():
    exemplars, originals = make_data()
    learning = LEARNS & (np.arange(len(LABELS)) != ROWS[0])
    outer = {"image": tf.constant(originals)}
    _, gradient = measure(make_objective(), exemplars, outer, learning)
    assert not np.any(gradient.numpy()[ROWS[0]])
    assert np.all(gradient.numpy()[ROWS[1]])


def test_the_others_are_measured_on_a_phase():
    assert on_originals("anchored")
    assert not on_originals("unrolled_training")
    assert not on_originals("class_means")


def test_exemplars_may_be_measured_some_at_a_time():
    exemplars, originals = make_data()
    outer = {"image": tf.constant(originals)}
    whole = measure(make_objective(), exemplars, outer)
    network = Tanh()
    network.images_at_once = 2
    objective = OBJECTIVES["anchored"](
        network, InnerSettings(), OuterSettings(gradient_scale=1.0), 0
    )
    for one, other in zip(measure(objective, exemplars, outer), whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)
