"""The meta-gradient through real layers: a ResNet in every scope, and batch normalisation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf import bilevel
from mnemonics_tf.bilevel.problem import BilevelProblem
from mnemonics_tf.models import layers
from mnemonics_tf.models.architecture import Architecture
from mnemonics_tf.models.incremental import IncrementalModel
from tests.bilevel.metagradient_cases import (
    EXACT,
    FOURTH_ORDER,
    Case,
    directional_differences,
    random_directions,
    relative_error,
)


def resnet_case(scope):
    """ResNet-8 with frozen, uneven batch statistics; images of 8x8, two steps of mini-batches."""
    random = np.random.default_rng(2)
    model = IncrementalModel(Architecture("resnet_cifar", 8, (8, 8, 3), "cosine"), 2, 2, seed=5)
    model.classifier.set_kernel(random.normal(size=(model.feature_size, 4)))
    model.classifier.scale.assign(3.0)
    model.enable_transfer()
    for variable in model.backbone.variables:
        if variable.name == "moving_variance":
            variable.assign(random.uniform(0.5, 2.0, variable.shape))
        if variable.name == "moving_mean":
            variable.assign(0.3 * random.normal(size=variable.shape))
    variables = model.scope_variables(scope)

    def loss(parameters, images, labels):
        outputs = model.functional_call(variables, parameters, lambda: model(images))
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs.logits)
        return tf.reduce_mean(losses)

    return Case(
        BilevelProblem(
            inner_loss=lambda parameters, images, labels, _: loss(parameters, images, labels),
            outer_loss=lambda parameters, outer_input: loss(parameters, *outer_input),
            # The classifier alone moves the outer loss so little that rounding would drown it.
            learning_rate=1.0 if scope == "classifier" else 0.05,
        ),
        parameters=[tf.convert_to_tensor(variable.value) for variable in variables],
        exemplars=random.normal(size=(6, 8, 8, 3)),
        labels=random.integers(0, 4, 6),
        batches=np.array([[0, 1, 2, 3], [2, 3, 4, 5]]),
        outer_input=(random.normal(size=(10, 8, 8, 3)), random.integers(0, 4, 10)),
    )


@pytest.mark.parametrize(
    "scope", ["all", pytest.param("transfer", marks=pytest.mark.exhaustive), "classifier"]
)
@pytest.mark.slow
def test_resnet_matches_finite_differences(scope, double_precision):
    case = resnet_case(scope)
    directions = random_directions(case.exemplars.shape, 6)
    # Short enough that no ReLU changes sides (at 1e-3 some do, and the differences mean nothing).
    differences = directional_differences(case, directions, 3e-5)
    for build in (bilevel.Sweep, bilevel.Unroll):
        gradient = case.estimate(build(case.problem)).exemplar_gradient.numpy()
        error = relative_error(directions.reshape(6, -1) @ gradient.ravel(), differences)
        assert error < 1e-6, build


def batch_statistics_case(normalization):
    """Dense layer, batch normalisation with the batch's own statistics, tanh, cosine classifier."""
    random = np.random.default_rng(4)
    normalization.build((None, 1, 1, 6))

    def loss(parameters, images, labels):
        kernel, classifier = parameters
        hidden = tf.reshape(images @ kernel, (-1, 1, 1, 6))
        with keras.StatelessScope():
            hidden = tf.tanh(tf.reshape(normalization(hidden, training=True), (-1, 6)))
        logits = tf.math.l2_normalize(hidden, axis=1) @ tf.math.l2_normalize(classifier, axis=0)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, 3 * logits))

    return Case(
        BilevelProblem(
            inner_loss=lambda parameters, images, labels, _: loss(parameters, images, labels),
            outer_loss=lambda parameters, outer_input: loss(parameters, *outer_input),
            learning_rate=0.3,
        ),
        parameters=[tf.constant(random.normal(size=size)) for size in ((4, 6), (6, 3))],
        exemplars=random.normal(size=(5, 4)),
        labels=random.integers(0, 3, 5),
        batches=np.array([[0, 1, 2, 3], [1, 2, 3, 4], [4, 0, 1, 2]]),
        outer_input=(random.normal(size=(8, 4)), random.integers(0, 3, 8)),
    )


@pytest.mark.parametrize("build", EXACT.values(), ids=EXACT)
@pytest.mark.slow
def test_own_batch_statistics_are_exact_in_second_order(build, double_precision):
    normalization = layers.BatchNormalization()
    normalization.exact = True
    assert _batch_statistics_error(normalization, build) < 1e-8


def test_stock_batch_statistics_are_wrong_in_second_order(double_precision):
    """What the test above guards against: `tf.nn.moments` stops a gradient that counts here."""
    assert _batch_statistics_error(keras.layers.BatchNormalization(), EXACT["sweep"]) > 1e-4


def _batch_statistics_error(normalization, build):
    case = batch_statistics_case(normalization)
    directions = np.eye(case.exemplars.size).reshape(-1, *case.exemplars.shape)
    differences = directional_differences(case, directions, 1e-3, FOURTH_ORDER)
    gradient = case.estimate(build(case.problem)).exemplar_gradient.numpy()
    return relative_error(gradient.ravel(), differences)
