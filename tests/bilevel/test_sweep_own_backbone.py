"""The meta-gradient through a backbone of the user's own, with frozen and with batch statistics."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf import bilevel
from mnemonics_tf.bilevel.problem import BilevelProblem
from mnemonics_tf.models.architecture import Architecture
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.models.own_backbone import OwnBackbone
from mnemonics_tf.settings import ModelSettings
from tests.bilevel.metagradient_cases import (
    Case,
    directional_differences,
    random_directions,
    relative_error,
)
from tests.models.small_models import SHAPE, mixed

pytestmark = pytest.mark.slow


def case_of(scope: str, batch_statistics: bool) -> Case:
    random = np.random.default_rng(2)
    settings = ModelSettings(backbone_input="-1..1")
    own = OwnBackbone("mine", mixed(), settings, SHAPE, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 0)
    model = IncrementalModel(Architecture("mine", 8, SHAPE, "cosine", own=own), 2, 2, seed=5)
    model.classifier.set_kernel(random.normal(size=(model.feature_size, 4)))
    model.classifier.scale.assign(3.0)
    model.set_transfer(True)
    variables = model.scope_variables(scope)

    def loss(parameters, images, labels, training):
        statistics = model.exact_batch_statistics() if training else contextlib.nullcontext()
        with statistics:
            outputs = model.functional_call(
                variables, parameters, lambda: model(images, training=training)
            )
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs.logits)
        return tf.reduce_mean(losses)

    return Case(
        BilevelProblem(
            lambda parameters, images, labels, _: loss(
                parameters, images, labels, batch_statistics
            ),
            lambda parameters, outer_input: loss(parameters, *outer_input, False),
            learning_rate=0.05,
        ),
        parameters=[tf.convert_to_tensor(variable.value) for variable in variables],
        exemplars=random.normal(size=(6, *SHAPE)),
        labels=random.integers(0, 4, 6),
        batches=np.array([[0, 1, 2, 3], [2, 3, 4, 5]]),
        outer_input=(random.normal(size=(10, *SHAPE)), random.integers(0, 4, 10)),
    )


@pytest.mark.parametrize(
    ("scope", "batch_statistics"),
    [pytest.param("transfer", False, marks=pytest.mark.exhaustive), ("all", True)],
)
def test_it_matches_finite_differences(scope, batch_statistics, double_precision):
    case = case_of(scope, batch_statistics)
    directions = random_directions(case.exemplars.shape, 4)
    differences = directional_differences(case, directions, 3e-5)
    gradient = case.estimate(bilevel.Sweep(case.problem)).exemplar_gradient.numpy()
    assert relative_error(directions.reshape(4, -1) @ gradient.ravel(), differences) < 1e-6
