import keras
import numpy as np
import pytest

from mnemonics_tf.bilevel.outer_optimizer import PixelOptimizer, learning_rate_at
from mnemonics_tf.settings import OuterSettings

SHAPE = (3, 4, 4, 2)
LOWEST = np.array([-2.0, -1.0], np.float32)
HIGHEST = np.array([2.0, 2.0], np.float32)  # a grey level differs by channel
ALL = np.arange(3)


def settings(**changes) -> OuterSettings:
    fields = {"learning_rate": 0.01, "halvings": 0, "steps": 8, "max_shift": 255.0} | changes
    bound = fields.pop("max_shift")
    named = {f"outer_{name}": value for name, value in fields.items()}
    return OuterSettings(**named, max_shift=bound)


def make_optimizer(**changes) -> PixelOptimizer:
    return PixelOptimizer(settings(**changes), images(), LOWEST, HIGHEST)


def gradients(count: int, scale: float = 1.0) -> np.ndarray:
    return scale * np.random.default_rng(1).normal(size=(count, *SHAPE)).astype(np.float32)


def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.9, 1.9, SHAPE).astype(np.float32)


def steps_of(optimizer: PixelOptimizer, start: np.ndarray, steps: np.ndarray) -> np.ndarray:
    moved = start.copy()
    for step, gradient in enumerate(steps):
        optimizer.apply(moved, ALL, gradient, step)
    return moved


def test_adam_moves_pixels_as_keras_does():
    variable = keras.Variable(images())
    reference = keras.optimizers.Adam(0.01, epsilon=1e-12)
    for gradient in gradients(8):
        reference.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    moved = steps_of(make_optimizer(), images(), gradients(8))
    np.testing.assert_allclose(moved, variable.numpy(), atol=1e-5)
    assert np.abs(moved - images()).max() > 0.01


def test_adam_does_not_see_the_scale_of_tiny_gradients():
    """Meta-gradients of single pixels are near 1e-6, where Adam's usual epsilon would brake."""
    moved = steps_of(make_optimizer(), images(), gradients(8))
    tiny = steps_of(make_optimizer(), images(), gradients(8, scale=1e-6))
    np.testing.assert_allclose(tiny, moved, atol=1e-4)


def test_sgd_with_momentum():
    expected, velocity = images(), np.zeros(SHAPE)
    for gradient in gradients(8):
        velocity = 0.9 * velocity + gradient
        expected = expected - 0.001 * velocity
    moved = steps_of(make_optimizer(optimizer="sgd", learning_rate=0.001), images(), gradients(8))
    np.testing.assert_allclose(moved, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_rows_without_a_gradient_stay_and_keep_their_moments(name):
    """A row that was out of turn for some steps goes on as if they had not been."""
    out_of_turn, always = make_optimizer(optimizer=name), make_optimizer(optimizer=name)
    first, second, third = gradients(3, scale=0.1)
    moved = images()
    out_of_turn.apply(moved, ALL, first, 0)
    before = moved.copy()
    out_of_turn.apply(moved, np.array([0, 2]), second[[0, 2]], 1)
    np.testing.assert_array_equal(moved[1], before[1])
    assert np.all(np.any(moved[[0, 2]] != before[[0, 2]], axis=(1, 2, 3)))
    out_of_turn.apply(moved, ALL, third, 2)

    expected = images()
    always.apply(expected, ALL, first, 0)
    always.apply(expected, ALL, third, 1)
    np.testing.assert_allclose(moved[1], expected[1], atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_pixels_stay_valid_channel_by_channel(name):
    pushed = np.ones(SHAPE, np.float32)
    pushed[1] = -1
    moved = images()
    make_optimizer(optimizer=name, learning_rate=100.0).apply(moved, ALL, pushed, 0)
    np.testing.assert_array_equal(moved[0], np.broadcast_to(LOWEST, SHAPE[1:]))
    np.testing.assert_array_equal(moved[1], np.broadcast_to(HIGHEST, SHAPE[1:]))


def test_the_paper_halves_every_10_of_50_steps():
    rates = [learning_rate_at(settings(halvings=4, steps=50), step) for step in range(50)]
    expected = np.repeat([0.01, 0.005, 0.0025, 0.00125, 0.000625], 10)
    np.testing.assert_allclose(rates, expected)


def test_no_halvings_keep_the_rate():
    assert {learning_rate_at(settings(halvings=0, steps=7), step) for step in range(7)} == {0.01}


def test_the_step_decides_the_rate_of_a_move():
    optimizer = make_optimizer(optimizer="sgd", momentum=0.0, halvings=1, steps=8)
    zeros, ones = np.zeros(SHAPE, np.float32), np.ones(SHAPE, np.float32)
    early, late = zeros.copy(), zeros.copy()
    optimizer.apply(early, ALL, ones, 3)
    optimizer.apply(late, ALL, ones, 4)
    np.testing.assert_allclose(early, -0.01)
    np.testing.assert_allclose(late, -0.005)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_a_restored_state_goes_on_where_it_was_taken(name):
    optimizer, restored = make_optimizer(optimizer=name), make_optimizer(optimizer=name)
    all_gradients = gradients(6, scale=0.1)
    moved = images()
    for step in range(3):
        optimizer.apply(moved, ALL, all_gradients[step], step)
    state = {key: values.copy() for key, values in optimizer.state().items()}
    restored.set_state(state)
    again = moved.copy()
    for step in range(3, 6):
        optimizer.apply(moved, ALL, all_gradients[step], step)
        restored.apply(again, ALL, all_gradients[step], step)
    np.testing.assert_array_equal(again, moved)


def shifts(moved: np.ndarray) -> np.ndarray:
    """How far images are from where they began, in grey levels, image by image."""
    levels = (moved - images()) * 255 / (HIGHEST - LOWEST)
    return np.sqrt(np.mean(levels**2, axis=(1, 2, 3)))


@pytest.mark.parametrize("bound", [0.0, 0.5, 1.5])
def test_no_image_leaves_its_reach(bound):
    optimizer, moved = make_optimizer(max_shift=bound), images()
    free = shifts(steps_of(make_optimizer(), images(), gradients(8)))
    assert np.all(free > 1.9)
    for step, gradient in enumerate(gradients(8)):
        optimizer.apply(moved, ALL, gradient, step)
        assert np.all(shifts(moved) <= bound * (1 + 1e-5) + 1e-5)
        assert np.all((moved >= LOWEST - 1e-6) & (moved <= HIGHEST + 1e-6))
    np.testing.assert_allclose(shifts(moved), bound, rtol=0.05, atol=1e-5)


def test_a_bound_that_is_not_reached_changes_nothing():
    bounded = steps_of(make_optimizer(max_shift=254.0), images(), gradients(8))
    np.testing.assert_allclose(
        bounded, steps_of(make_optimizer(), images(), gradients(8)), atol=1e-6
    )
