"""A step of training through a backbone of the user's own: in 16 bits and compiled by XLA."""

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.methods import METHODS
from mnemonics_tf.models.architecture import Architecture
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.models.own_backbone import OwnBackbone
from mnemonics_tf.settings import ModelSettings, TrainingSettings
from mnemonics_tf.training.optimization import OptimizationSettings
from mnemonics_tf.training.step import TrainingStep
from tests.models.small_models import SHAPE, mixed, plain

BATCH = 8


@pytest.fixture(scope="module")
def batch() -> dict[str, tf.Tensor]:
    images = np.random.default_rng(3).normal(size=(BATCH, *SHAPE))
    return {
        "image": tf.constant(images, tf.float32),
        "label": tf.constant(np.arange(BATCH) % 3, tf.int32),
        "weight": tf.fill([BATCH], 1 / BATCH),
    }


def taken(source, batch, transfer=False, **options) -> tuple[float, dict[str, np.ndarray]]:
    """The loss of a step, and where it has led."""
    own = OwnBackbone("mine", source, ModelSettings(), SHAPE, (0, 0, 0), (1, 1, 1), 0)
    model = IncrementalModel(Architecture("mine", 8, SHAPE, "linear", own=own), 0, 3, 0)
    model.set_transfer(transfer)
    settings = OptimizationSettings(1, 0.1, (), 0.1, 0.9, 5e-4, False, BATCH)
    strategy = tf.distribute.get_strategy()
    loss_parts = METHODS["lwf"](TrainingSettings()).loss_parts
    step = TrainingStep(model, None, loss_parts, settings, strategy, **options)
    step.start()
    metrics = tf.function(step.take)(batch)
    return step.means(metrics.numpy())["loss"], model.state()


@pytest.mark.slow
@pytest.mark.parametrize(("transfer", "options", "error"), [
    (False, {"jit_compile": True}, 1e-5),
    (True, {"mixed_precision": "bfloat16"}, 0.03),
    (False, {"mixed_precision": "float16"}, 0.01),
])  # fmt: skip
def test_precisions_and_compilers_agree(batch, transfer, options, error):
    (loss, state), (expected, goal) = (
        taken(plain(), batch, transfer, **more) for more in (options, {})
    )
    assert loss == pytest.approx(expected, rel=error)
    assert {path: array.dtype for path, array in state.items()} == {
        path: array.dtype for path, array in goal.items()
    }
    for path, array in state.items():
        np.testing.assert_allclose(array, goal[path], atol=error, err_msg=path)


@pytest.mark.slow
def test_dropout_draws_by_the_seed_and_goes_on(batch):
    """Its state is a part of the model's: what a checkpoint holds decides what is dropped next."""
    states = [taken(mixed(), batch)[1] for _ in range(2)]
    for path, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][path], err_msg=path)
    (path,) = (path for path in states[0] if "seed_generator" in path)
    assert path == "dropout_1/seed_generator_state_0"
    assert states[0][path][1] == 1
