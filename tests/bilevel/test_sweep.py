"""The meta-gradient against closed forms, finite differences and its other estimators."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf import bilevel, errors
from mnemonics_tf.bilevel.problem import BilevelProblem
from tests.bilevel.metagradient_cases import (
    EXACT,
    FOURTH_ORDER,
    Case,
    cosine,
    directional_differences,
    first_order,
    gradient_by_tapes,
    relative_error,
    train,
)

# --- closed form ---------------------------------------------------------------------------------


def quadratic_case(momentum):
    """Inner loss mean_i (theta - x_i)^T A_{y_i} (theta - x_i) / 2, outer loss |theta - z|^2 / 2."""
    random = np.random.default_rng(0)
    factors = random.normal(size=(3, 4, 4))
    curvature = factors @ factors.transpose(0, 2, 1) / 4 + 0.1 * np.eye(4)

    def inner_loss(parameters, images, labels, step_input):
        difference = parameters[0] - images
        products = tf.einsum(
            "ij,ijk,ik->i", difference, tf.gather(tf.constant(curvature), labels), difference
        )
        return tf.reduce_mean(products) / 2

    def outer_loss(parameters, target):
        return tf.reduce_sum(tf.square(parameters[0] - target)) / 2

    case = Case(
        BilevelProblem(inner_loss, outer_loss, 0.15, momentum),
        parameters=[tf.constant(random.normal(size=4))],
        exemplars=random.normal(size=(6, 4)),
        labels=np.array([0, 1, 2, 0, 1, 2]),
        # Row 3 comes twice in a batch, row 5 never.
        batches=np.array([[0, 1, 2], [3, 3, 4], [1, 2, 4], [0, 3, 1], [2, 4, 4]]),
        outer_input=random.normal(size=4),
    )
    return case, curvature


def quadratic_solution(case, curvature, first_step=0, keep_hessian=True):
    """d outer / dE by hand: the base level is a linear recurrence in (theta, v).

    v' = mu v + H theta - m and theta' = theta - alpha v', with H the batch's mean curvature and m
    its mean of A x; so x_i moves (theta', v') of each of its steps by (alpha, -1) A / b, and later
    steps pass that on by their block matrix.
    """
    alpha, mu = case.problem.learning_rate, case.problem.momentum
    identity = np.eye(4)
    state = np.concatenate([case.parameters[0].numpy(), np.zeros(4)])
    derivative = np.zeros((8, *case.exemplars.shape))  # of the state, by every exemplar
    for step, batch in enumerate(case.batches):
        matrices = curvature[case.labels[batch]]
        pull = np.einsum("ijk,ik->j", matrices, case.exemplars[batch]) / len(batch)
        hessian = matrices.mean(axis=0)
        state = _block(hessian, alpha, mu) @ state + np.concatenate([alpha * pull, -pull])
        kept_hessian = hessian if keep_hessian else np.zeros_like(hessian)
        derivative = np.einsum("st,tnd->snd", _block(kept_hessian, alpha, mu), derivative)
        if step >= first_step:
            for row, matrix in zip(batch, matrices, strict=True):
                derivative[:, row] += (
                    np.concatenate([alpha * identity, -identity]) @ matrix / len(batch)
                )
    theta = state[:4]
    return theta, np.einsum("s,snd->nd", theta - case.outer_input, derivative[:4])


def _block(hessian, alpha, mu):
    identity = np.eye(len(hessian))
    return np.block(
        [[identity - alpha * hessian, -alpha * mu * identity], [hessian, mu * identity]]
    )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(
    ("build", "kept"),
    [
        (bilevel.Sweep, {}),
        (bilevel.Unroll, {}),
        (lambda problem: bilevel.Sweep(problem, last_steps=2), {"first_step": 3}),
        (first_order, {"keep_hessian": False}),
    ],
    ids=["sweep", "unroll", "truncated", "first_order"],
)
@pytest.mark.slow
def test_estimators_match_the_closed_form_of_a_quadratic(build, kept, momentum):
    case, curvature = quadratic_case(momentum)
    theta, expected = quadratic_solution(case, curvature, **kept)
    result = case.estimate(build(case.problem))
    np.testing.assert_allclose(result.final_parameters[0], theta, rtol=1e-12)
    np.testing.assert_allclose(result.outer_loss, np.sum((theta - case.outer_input) ** 2) / 2)
    # A central difference is exact on a quadratic, up to rounding over a step of about 1e-5.
    tolerance = 1e-9 if build is first_order else 1e-13
    np.testing.assert_allclose(result.exemplar_gradient, expected, rtol=0, atol=tolerance)


def test_an_exemplar_in_no_batch_has_no_gradient():
    case, _ = quadratic_case(0.0)
    gradient = case.estimate(bilevel.Sweep(case.problem)).exemplar_gradient.numpy()
    assert np.all(gradient[5] == 0)
    assert np.all(np.any(gradient[:5] != 0, axis=1))


# --- a smooth network ----------------------------------------------------------------------------


def network_case(momentum=0.0, dtype=np.float64):
    """A tanh network with a cosine classifier; every step has noise and weights of its own."""
    random = np.random.default_rng(1)
    inputs, hidden, classes, num_exemplars, num_steps, batch_size = 5, 7, 3, 8, 4, 5
    outer_labels = random.integers(0, classes, 20)

    def logits(parameters, images):
        kernel, bias, classifier, scale = parameters
        features = tf.math.l2_normalize(tf.tanh(images @ kernel + bias), axis=1)
        return scale * features @ tf.math.l2_normalize(classifier, axis=0)

    def inner_loss(parameters, images, labels, step_input):
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels, logits(parameters, images + step_input["noise"])
        )
        return tf.reduce_mean(step_input["weights"] * losses)

    def outer_loss(parameters, outer_input):
        images, labels = outer_input
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits(parameters, images))
        return tf.reduce_mean(losses)

    return Case(
        BilevelProblem(inner_loss, outer_loss, 0.3, momentum),
        parameters=[
            tf.constant(random.normal(size=(inputs, hidden)), dtype),
            tf.constant(random.normal(size=hidden), dtype),
            tf.constant(random.normal(size=(hidden, classes)), dtype),
            tf.constant(4.0, dtype),
        ],
        exemplars=random.normal(size=(num_exemplars, inputs)).astype(dtype),
        labels=random.integers(0, classes, num_exemplars),
        batches=random.integers(0, num_exemplars, (num_steps, batch_size)),
        step_inputs={
            "noise": (0.1 * random.normal(size=(num_steps, batch_size, inputs))).astype(dtype),
            "weights": random.uniform(0.5, 1.5, (num_steps, batch_size)).astype(dtype),
        },
        outer_input=(random.normal(size=(20, inputs)).astype(dtype), outer_labels),
    )


@pytest.fixture(scope="module", params=[0.0, 0.9], ids=["plain", "momentum"])
def network_and_differences(request):
    case = network_case(request.param)
    directions = np.eye(case.exemplars.size).reshape(-1, *case.exemplars.shape)
    differences = directional_differences(case, directions, 1e-3, FOURTH_ORDER)
    return case, differences.reshape(case.exemplars.shape)


@pytest.mark.parametrize("build", EXACT.values(), ids=EXACT)
def test_exact_estimators_match_finite_differences(build, network_and_differences):
    case, differences = network_and_differences
    result = case.estimate(build(case.problem))
    assert relative_error(result.exemplar_gradient, differences) < 1e-8


@pytest.mark.slow
def test_result_tells_the_course_of_the_base_level():
    case = network_case(momentum=0.9)
    outer_loss, parameters = train(case, case.exemplars)
    for build in (*EXACT.values(), first_order):
        result = case.estimate(build(case.problem))
        np.testing.assert_allclose(result.outer_loss, outer_loss, rtol=1e-12)
        for actual, expected in zip(result.final_parameters, parameters, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-12)
        assert result.inner_losses.shape == (4,)
        first = case.problem.inner_loss(
            case.parameters,
            tf.gather(case.exemplars, case.batches[0]),
            case.labels[case.batches[0]],
            tf.nest.map_structure(lambda values: values[0], case.step_inputs),
        )
        np.testing.assert_allclose(result.inner_losses[0], first, rtol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.slow
def test_sweep_equals_unroll(momentum):
    case = network_case(momentum)
    actual = case.estimate(bilevel.Sweep(case.problem)).exemplar_gradient
    unroll = case.estimate(bilevel.Unroll(case.problem)).exemplar_gradient
    assert relative_error(actual, unroll) < 1e-10


class OwnSweep(bilevel.Sweep):
    """An estimator of a user's own that is built as what it derives from."""


class OwnUnroll(bilevel.Unroll):
    """Another."""


def own_estimator(problem, truncated_steps):
    """A function, which need not take all."""
    return bilevel.Sweep(problem, truncated_steps)


def test_estimators_of_one_s_own_are_built_with_what_they_take():
    case, _ = quadratic_case(momentum=0.9)

    def gradient(name, truncated_steps):
        name = name if name in bilevel.ESTIMATORS else f"{__name__}:{name}"
        estimator = bilevel.create(name, case.problem, truncated_steps)
        return case.estimate(estimator).exemplar_gradient

    exact, truncated = gradient("sweep", 1), gradient("truncated", 1)
    assert relative_error(gradient("OwnSweep", 1), exact) < 1e-12
    assert relative_error(gradient("OwnUnroll", 1), exact) < 1e-10
    assert relative_error(gradient("own_estimator", 1), truncated) < 1e-12
    assert relative_error(truncated, exact) > 1e-2
    with pytest.raises(errors.UserError, match="case can't be built with problem="):
        gradient("quadratic_case", 1)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("last_steps", [1, 3])
@pytest.mark.slow
def test_truncated_equals_tapes_around_the_last_steps(last_steps, momentum):
    case = network_case(momentum)
    estimator = bilevel.create("truncated", case.problem, truncated_steps=last_steps)
    expected = gradient_by_tapes(case, first_differentiable_step=4 - last_steps)
    assert relative_error(case.estimate(estimator).exemplar_gradient, expected) < 1e-12
    assert relative_error(gradient_by_tapes(case), expected) > 1e-2


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-7), (np.float32, 1e-2)])
def test_first_order_is_the_gradient_without_hessian(dtype, tolerance):
    case = network_case(momentum=0.5, dtype=dtype)
    expected = gradient_by_tapes(case, keep_hessian=False)
    actual = case.estimate(first_order(case.problem)).exemplar_gradient
    assert relative_error(actual, expected) < tolerance
    exact = gradient_by_tapes(case)
    assert relative_error(expected, exact) > 1e-2
    assert cosine(actual, exact) > 0.8


def test_first_order_starts_from_parameters_at_zero():
    case, curvature = quadratic_case(0.0)
    case = dataclasses.replace(case, parameters=[tf.zeros(4, tf.float64)], batches=case.batches[:1])
    _, expected = quadratic_solution(case, curvature, keep_hessian=False)
    actual = case.estimate(first_order(case.problem)).exemplar_gradient
    assert relative_error(actual, expected) < 1e-8


@pytest.mark.parametrize("name", bilevel.ESTIMATORS)
@pytest.mark.slow
def test_compiled_estimators_give_the_same_gradient(name):
    case, _ = quadratic_case(momentum=0.9)
    plain, compiled = (
        case.estimate(bilevel.create(name, case.problem, 2, jit_compile))
        for jit_compile in (False, True)
    )
    assert relative_error(compiled.exemplar_gradient, plain.exemplar_gradient) < 1e-7
    np.testing.assert_allclose(compiled.inner_losses, plain.inner_losses, rtol=1e-12)


def test_compiling_is_done_by_xla_alone():
    case, _ = quadratic_case(momentum=0.0)

    def uncompilable_loss(parameters, images, labels, step_input):
        loss = case.problem.inner_loss(parameters, images, labels, step_input)
        return loss + 0.0 * tf.py_function(lambda: 0.0, [], tf.float64)

    problem = dataclasses.replace(case.problem, inner_loss=uncompilable_loss)
    case.estimate(bilevel.create("sweep", problem))
    with pytest.raises(tf.errors.InvalidArgumentError, match="[Cc]ompil"):
        case.estimate(bilevel.create("sweep", problem, jit_compile=True))


@pytest.mark.slow
def test_a_compiled_sweep_through_a_network_is_exact():
    case = network_case(momentum=0.9)
    compiled = bilevel.create("sweep", case.problem, jit_compile=True)
    gradient = case.estimate(compiled).exemplar_gradient
    assert relative_error(gradient, gradient_by_tapes(case)) < 1e-10


@pytest.mark.parametrize("build", EXACT.values(), ids=EXACT)
@pytest.mark.slow
def test_single_precision_agrees_with_double(build):
    single, double = network_case(0.9, np.float32), network_case(0.9)
    actual = single.estimate(build(single.problem)).exemplar_gradient
    assert actual.dtype == tf.float32
    assert relative_error(actual, gradient_by_tapes(double)) < 1e-5


@pytest.mark.parametrize("build", [*EXACT.values(), first_order])
@pytest.mark.slow
def test_gradient_scale_scales_the_gradient_alone(build):
    case = network_case()
    scaled = case.with_problem(gradient_scale=1000.0)
    plain_result, result = (
        case.estimate(build(case.problem)),
        scaled.estimate(build(scaled.problem)),
    )
    assert relative_error(result.exemplar_gradient, 1000 * plain_result.exemplar_gradient) < 1e-9
    np.testing.assert_allclose(result.outer_loss, plain_result.outer_loss)


@pytest.mark.parametrize("build", [*EXACT.values(), first_order])
@pytest.mark.slow
def test_new_values_and_more_steps_are_not_traced_again(build):
    traces = []
    case = network_case()

    def inner_loss(*arguments):
        traces.append("inner")
        return case.problem.inner_loss(*arguments)

    def outer_loss(*arguments):
        traces.append("outer")
        return case.problem.outer_loss(*arguments)

    estimator = build(
        dataclasses.replace(case.problem, inner_loss=inner_loss, outer_loss=outer_loss)
    )
    case.estimate(estimator)
    traced = len(traces)
    assert traced > 0
    changed = dataclasses.replace(
        case,
        parameters=[parameter + 0.1 for parameter in case.parameters],
        exemplars=case.exemplars + 0.1,
        batches=np.repeat(case.batches, 2, axis=0),
        step_inputs=tf.nest.map_structure(
            lambda values: np.repeat(values, 2, axis=0), case.step_inputs
        ),
    )
    result = changed.estimate(estimator)
    assert len(traces) == traced
    np.testing.assert_allclose(result.outer_loss, train(changed, changed.exemplars)[0])


def test_variables_are_read_and_left_alone():
    case = network_case()
    variables = [tf.Variable(parameter) for parameter in case.parameters]
    result = dataclasses.replace(case, parameters=variables).estimate(bilevel.Sweep(case.problem))
    np.testing.assert_allclose(result.exemplar_gradient, gradient_by_tapes(case), rtol=1e-9)
    for variable, parameter in zip(variables, case.parameters, strict=True):
        np.testing.assert_array_equal(variable, parameter)


def sweep_on_features(problem):
    return bilevel.OnFeatures(bilevel.Sweep(problem), tf.tanh, chunk_size=2)


@pytest.mark.parametrize("build", [bilevel.Sweep, bilevel.Unroll, sweep_on_features])
@pytest.mark.slow
def test_only_learning_exemplars_have_a_gradient(build):
    case = network_case()
    whole = case.estimate(build(case.problem)).exemplar_gradient.numpy()
    learning = np.arange(len(case.labels)) % 2 == 1
    part = case.estimate(build(case.problem), learning).exemplar_gradient.numpy()
    np.testing.assert_allclose(part[learning], whole[learning], rtol=1e-12)
    assert not part[~learning].any()
    nothing = case.estimate(build(case.problem), np.zeros_like(learning))
    assert not nothing.exemplar_gradient.numpy().any()


@pytest.mark.parametrize("chunk_size", [3, 100])
def test_on_features_equals_the_gradient_through_the_encoder(chunk_size):
    case = network_case()
    kernel = np.random.default_rng(3).normal(size=(5, 5))

    def encode(images):
        return tf.tanh(images @ kernel)

    def inner_loss_of_images(parameters, images, labels, step_input):
        return case.problem.inner_loss(parameters, encode(images), labels, step_input)

    expected = gradient_by_tapes(case.with_problem(inner_loss=inner_loss_of_images))
    estimator = bilevel.OnFeatures(bilevel.Sweep(case.problem), encode, chunk_size)
    result = case.estimate(estimator)
    assert relative_error(result.exemplar_gradient, expected) < 1e-12


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.zeros(7, int)}, "labels of shape"),
        ({"batches": np.zeros((0, 5), int)}, "one step and one row"),
        ({"batches": np.arange(8)}, r"\[T, b\]"),
        ({"batches": np.full((4, 5), 8)}, "rows 8 to 8 of 8 exemplars"),
        ({"step_inputs": np.zeros((3, 2))}, "leading axis of T = 4"),
        ({"exemplars": np.zeros((8, 5), np.float32)}, "one float dtype"),
        ({"parameters": []}, "one float dtype"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes, message):
    case = dataclasses.replace(network_case(), **changes)
    with pytest.raises(ValueError, match=message):
        case.estimate(bilevel.Sweep(case.problem))


@pytest.mark.parametrize("build", [*EXACT.values(), first_order])
@pytest.mark.slow
def test_exemplars_cut_off_from_the_loss_are_refused(build):
    case = network_case()

    def cut_off(parameters, images, labels, step_input):
        images = tf.stop_gradient(images)
        return case.problem.inner_loss(parameters, images, labels, step_input)

    changed = case.with_problem(inner_loss=cut_off)
    with pytest.raises(ValueError, match="no differentiable path"):
        changed.estimate(build(changed.problem))


@pytest.mark.slow
def test_registry_builds_every_estimator_and_names_them_in_its_error():
    case = network_case()
    exact = gradient_by_tapes(case)
    for name in bilevel.ESTIMATORS:
        estimator = bilevel.create(name, case.problem, truncated_steps=3)
        assert cosine(case.estimate(estimator).exemplar_gradient, exact) > 0.8, name
    with pytest.raises(
        errors.UserError, match="=sweeep: known are sweep, unroll, truncated, first_order"
    ):
        bilevel.create("sweeep", case.problem)
    with pytest.raises(errors.UserError, match="-1 inner steps"):
        bilevel.create("truncated", case.problem, truncated_steps=-1)


def test_losses_may_gather_parameters_and_images():
    """Their gradients by what is gathered are slices, which know no arithmetic."""
    random = np.random.default_rng(0)
    table, exemplars = (tf.constant(random.normal(size=shape)) for shape in ((5, 3), (4, 3)))
    rows, labels = tf.constant([0, 3, 3]), tf.range(4)

    def inner_loss(parameters, images, labels, step_input):
        turned = tf.gather(images, [2, 0, 1])
        return tf.reduce_sum(tf.square(tf.gather(parameters[0], labels) - turned) ** 2)

    def outer_loss(parameters, outer_input):
        return tf.reduce_sum(tf.gather(parameters[0], rows) ** 2)

    problem = bilevel.BilevelProblem(inner_loss, outer_loss, learning_rate=0.01, momentum=0.5)
    batches = np.array([[0, 1, 2], [3, 3, 0], [1, 2, 3]])
    swept, unrolled, rough = (
        estimator(problem).estimate([table], exemplars, labels, batches).exemplar_gradient.numpy()
        for estimator in (bilevel.Sweep, bilevel.Unroll, first_order)
    )
    np.testing.assert_allclose(swept, unrolled, rtol=1e-9)
    assert np.abs(unrolled).max() > 1e-3
    assert cosine(rough, swept) > 0.8
