import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.training.optimization import OptimizationSettings, l2_gradients, make_optimizer

SETTINGS = OptimizationSettings(
    epochs=8,
    learning_rate=0.1,
    milestones=(4, 6),
    decay=0.1,
    momentum=0.9,
    weight_decay=0.05,
    decay_normalization=False,
    batch_size=4,
)


def make_variables() -> list[keras.Variable]:
    return [
        keras.Variable(value, name=name)
        for name, value in (("kernel", [1.0, -2.0]), ("gamma", [3.0]), ("beta", [-1.0]))
    ]


def gradients_at(step: int) -> list[np.ndarray]:
    random = np.random.default_rng(step)
    return [random.normal(size=2), random.normal(size=1), random.normal(size=1)]


def run(settings: OptimizationSettings, steps: int = 6) -> list[np.ndarray]:
    variables = make_variables()
    optimizer = make_optimizer(settings, variables)
    for step in range(steps):
        gradients = [tf.constant(gradient, tf.float32) for gradient in gradients_at(step)]
        optimizer.apply(l2_gradients(gradients, variables, settings), variables)
    return [variable.numpy() for variable in variables]


def by_hand(decays: tuple[float, float, float], momentum=0.9, steps: int = 6) -> list[np.ndarray]:
    """PyTorch's SGD: g += wd * w; buffer = momentum * buffer + g; w -= rate * buffer."""
    weights = [variable.numpy().astype(np.float64) for variable in make_variables()]
    buffers = [np.zeros_like(weight) for weight in weights]
    for step in range(steps):
        for i, gradient in enumerate(gradients_at(step)):
            gradient = gradient + decays[i] * weights[i]
            buffers[i] = momentum * buffers[i] + gradient
            weights[i] = weights[i] - 0.1 * buffers[i]
    return weights


def check_close(ours, expected):
    for value, reference in zip(ours, expected, strict=True):
        np.testing.assert_allclose(value, reference, rtol=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_l2_comes_before_momentum_and_spares_normalisation(momentum):
    settings = dataclasses.replace(SETTINGS, momentum=momentum)
    check_close(run(settings), by_hand((0.05, 0, 0), momentum))


def test_l2_acts_on_normalisation_where_asked_for():
    settings = dataclasses.replace(SETTINGS, decay_normalization=True)
    check_close(run(settings), by_hand((0.05, 0.05, 0.05)))


def test_keras_own_weight_decay_is_another():
    variables = make_variables()
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.05)
    for step in range(6):
        optimizer.apply([tf.constant(g, tf.float32) for g in gradients_at(step)], variables)
    assert np.abs(variables[0].numpy() - by_hand((0.05, 0, 0))[0]).max() > 0.02


def test_replicas_share_the_l2():
    variables = make_variables()
    gradients = [tf.zeros_like(variable.value) for variable in variables]
    one = l2_gradients(gradients, variables, SETTINGS)
    two = l2_gradients(gradients, variables, SETTINGS, replicas=2)
    np.testing.assert_allclose(one[0], 0.05 * variables[0].numpy())
    np.testing.assert_allclose(two[0] + two[0], one[0])


def test_rate_falls_at_the_milestones():
    rates = [SETTINGS.learning_rate_at(epoch) for epoch in range(8)]
    assert rates == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)
    flat = dataclasses.replace(SETTINGS, milestones=())
    assert {flat.learning_rate_at(epoch) for epoch in range(8)} == {0.1}
