"""Meta-gradient: d(outer loss) / d(exemplars) through the SGD of a temporary model.

The base level trains temporary parameters theta on the exemplars E for T steps, from zero velocity
(Eq. 8, with a momentum mu that the paper leaves at 0):

    v_{t+1}     = mu * v_t + grad_theta L_inner(theta_t; E[batch_t])
    theta_{t+1} = theta_t - alpha * v_{t+1}

The meta level asks how L_outer(theta_T) changes with every pixel of E (the gradient in Eq. 9 and
10). Going backwards, with lambda and nu the derivatives of L_outer by theta and v, from
lambda_T = dL_outer / dtheta_T and nu_T = 0:

    a_t          = nu_{t+1} - alpha * lambda_{t+1}
    p_t          = <grad_theta L_inner(theta_t; E[batch_t]), a_t>
    dE[batch_t] += dp_t / dE                             (mixed product)
    lambda_t     = lambda_{t+1} + dp_t / dtheta_t        (Hessian product)
    nu_t         = mu * a_t

The estimators differ in how, and how much of, this they compute:

    sweep        exact; this recursion, keeping theta_0..theta_T and the activations of one step
    unroll       exact; plain nested tapes, which keep the activations of all T steps
    truncated    this recursion for the last K steps only
    first_order  without Hessian product, and the mixed product as a difference of two gradients

What all of them are asked and answer is in `bilevel`.

Source: Liu et al., "Mnemonics Training: Multi-Class Incremental Learning without Forgetting",
CVPR 2020, Section 4.3.
"""

import abc
import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mnemonics_tf import errors
from mnemonics_tf.bilevel.problem import (
    BaseLevel,
    BilevelProblem,
    MetaGradient,
    MetaGradientResult,
    Nest,
    check_connected,
)
from mnemonics_tf.tracing import TracedFunction


class _TrainingMetaGradient(MetaGradient):
    """What runs the base level itself: the compiled step of Eq. 8.

    Args:
        problem: the two losses and the base level's step.
        jit_compile: whether XLA compiles the graphs.
    """

    def __init__(self, problem: BilevelProblem, jit_compile: bool = False):
        self._problem = problem
        self._inner_step = _traced("inner step", self._take_inner_step, jit_compile)

    def _take_inner_step(self, parameters, velocity, exemplars, batch, labels, step_input):
        """One step of Eq. 8: (theta_t, v_t) -> (theta_{t+1}, v_{t+1}, inner loss)."""
        images = tf.gather(exemplars, batch)
        loss, gradient = self._inner_gradient(parameters, images, labels, step_input)
        velocity = _add_scaled(gradient, velocity, self._problem.momentum)
        parameters = _add_scaled(parameters, velocity, -self._problem.learning_rate)
        return parameters, velocity, loss

    def _inner_gradient(self, parameters, images, labels, step_input):
        """Returns the inner loss and its gradient by the parameters."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(parameters)
            loss = self._problem.inner_loss(parameters, images, labels, step_input)
        # A parameter which the inner loss does not use just stays where it is.
        return loss, tape.gradient(loss, parameters, unconnected_gradients="zero")


class _Reverse(_TrainingMetaGradient):
    """Forward through the T steps, then backwards over the kept parameters theta_T..theta_0.

    The compiled functions each cover one step and are called from Python: the activations of a step
    are gone before the next one begins, so that memory grows by the parameters alone with T.

    Args:
        problem: the two losses and the base level's step.
        last_steps: how many steps to go back; None goes back to the first.
        jit_compile: whether XLA compiles the graphs.
    """

    def __init__(
        self, problem: BilevelProblem, last_steps: int | None = None, jit_compile: bool = False
    ):
        super().__init__(problem, jit_compile)
        self._last_steps = last_steps
        self._outer_gradient = _traced("outer loss", self._differentiate_outer_loss, jit_compile)
        self._reverse_step = _traced("reverse step", self._take_reverse_step, jit_compile)

    def _estimate(self, base_level: BaseLevel, outer_input: Nest) -> MetaGradientResult:
        num_steps = base_level.num_steps
        first_step = max(0, num_steps - (self._last_steps or num_steps))
        parameters, trajectory, inner_losses = self._train(base_level, first_step)
        outer_loss, adjoint = self._outer_gradient(parameters, outer_input)
        velocity_adjoint = [tf.zeros_like(parameter) for parameter in parameters]
        exemplar_gradient = tf.zeros_like(base_level.exemplars)
        for step in reversed(range(first_step, num_steps)):
            adjoint, velocity_adjoint, exemplar_gradient = self._reverse_step(
                trajectory.pop(),
                adjoint,
                velocity_adjoint,
                exemplar_gradient,
                base_level.exemplars,
                *base_level.step_arguments(step),
            )
        return MetaGradientResult(
            outer_loss, exemplar_gradient, tf.stack(inner_losses), list(parameters)
        )

    def _train(self, base_level: BaseLevel, first_step: int):
        """Runs the base level.

        Returns:
            theta_T, the list of theta_first_step..theta_{T-1}, and the list of the T inner losses.
        """
        parameters = base_level.parameters
        velocity = [tf.zeros_like(parameter) for parameter in parameters]
        trajectory, inner_losses = [], []
        for step in range(base_level.num_steps):
            if step >= first_step:
                trajectory.append(parameters)
            parameters, velocity, loss = self._inner_step(
                parameters, velocity, base_level.exemplars, *base_level.step_arguments(step)
            )
            inner_losses.append(loss)
        return parameters, trajectory, inner_losses

    def _differentiate_outer_loss(self, parameters, outer_input):
        """Returns the outer loss and lambda_T."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(parameters)
            loss = self._problem.outer_loss(parameters, outer_input)
        adjoint = tape.gradient(loss, parameters, unconnected_gradients="zero")
        return loss, [self._problem.gradient_scale * part for part in adjoint]

    def _take_reverse_step(
        self,
        parameters,
        adjoint,
        velocity_adjoint,
        exemplar_gradient,
        exemplars,
        batch,
        labels,
        step_input,
    ):
        """One step of the recursion: (lambda, nu, dE) of t+1 -> those of t."""
        direction = _add_scaled(velocity_adjoint, adjoint, -self._problem.learning_rate)
        hessian_product, mixed_product = self._products(
            parameters, tf.gather(exemplars, batch), labels, step_input, direction
        )
        adjoint = _add_scaled(adjoint, hessian_product, 1.0)
        velocity_adjoint = [self._problem.momentum * part for part in direction]
        # Adds: an exemplar seen in several steps, or twice in one, collects all its parts.
        exemplar_gradient = tf.tensor_scatter_nd_add(
            exemplar_gradient, batch[:, tf.newaxis], mixed_product
        )
        return adjoint, velocity_adjoint, exemplar_gradient

    @abc.abstractmethod
    def _products(self, parameters, images, labels, step_input, direction):
        """Returns the derivatives of <grad_theta inner loss, direction> by theta and images."""


class ReverseSweep(_Reverse):
    """`sweep` and `truncated`: Hessian and mixed product of a step at once, by nested tapes.

    With `last_steps` None, or at least T, the gradient is exact. With K < T steps, what the earlier
    steps do to parameters and velocity counts as constant, and their parameters are not kept.
    """

    def _products(self, parameters, images, labels, step_input, direction):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([parameters, images])
            _, gradient = self._inner_gradient(parameters, images, labels, step_input)
            product = _inner_product(gradient, direction)
        # None marks what the product cannot depend on. That is sound for a parameter in which the
        # loss is linear, and a mistake for the images.
        *hessian_product, mixed_product = tape.gradient(product, [*parameters, images])
        check_connected(mixed_product)
        hessian_product = [
            tf.zeros_like(parameter) if part is None else part
            for parameter, part in zip(parameters, hessian_product, strict=True)
        ]
        return hessian_product, mixed_product


class FirstOrder(_Reverse):
    """`first_order`: no gradient through a gradient, at 2/3 of the sweep's cost a step or less.

    The Hessian product is dropped, so lambda stays lambda_T, and the mixed product is the central
    difference of two image gradients, as in Liu et al., "DARTS", ICLR 2019, Eq. 8:

        (grad_E L(theta + epsilon * a) - grad_E L(theta - epsilon * a)) / (2 * epsilon)

    with epsilon * |a| = max(|theta|, 1) times the cube root of the machine epsilon, which balances
    rounding against curvature. The difference presumes a smooth inner loss: every ReLU that changes
    sides between the two points adds an error that no epsilon removes (T = 5 on a fresh ResNet-20:
    cosine with the exact gradient 0.33, with the classifier alone trained 0.998). Use it where the
    parameters act after the last ReLU, and measure it against `sweep` before trusting it elsewhere.
    """

    def _products(self, parameters, images, labels, step_input, direction):
        rounding = float(np.finfo(images.dtype.as_numpy_dtype).eps)
        distance = rounding ** (1 / 3) * tf.maximum(tf.linalg.global_norm(parameters), 1.0)
        epsilon = tf.math.divide_no_nan(distance, tf.linalg.global_norm(direction))
        ahead = self._image_gradient(
            _add_scaled(parameters, direction, epsilon), images, labels, step_input
        )
        behind = self._image_gradient(
            _add_scaled(parameters, direction, -epsilon), images, labels, step_input
        )
        mixed_product = tf.math.divide_no_nan(ahead - behind, 2.0 * epsilon)
        return [tf.zeros_like(parameter) for parameter in parameters], mixed_product

    def _image_gradient(self, parameters, images, labels, step_input):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            loss = self._problem.inner_loss(parameters, images, labels, step_input)
        gradient = tape.gradient(loss, images)
        check_connected(gradient)
        return gradient


class Unroll(_TrainingMetaGradient):
    """`unroll`: one tape around all T steps; the reference which the sweep is checked against.

    The tape is eager and each step one call of a compiled function. A single graph of T steps takes
    time to trace that grows with T, and from T = 10 on, with a ResNet-32, TensorFlow 2.21's graph
    optimiser rejects it ("nodes in a cycle").
    """

    def __init__(self, problem: BilevelProblem, jit_compile: bool = False):
        super().__init__(problem, jit_compile)
        self._outer_loss = _traced("outer loss", problem.outer_loss, jit_compile)

    def _estimate(self, base_level: BaseLevel, outer_input: Nest) -> MetaGradientResult:
        parameters = base_level.parameters
        velocity = [tf.zeros_like(parameter) for parameter in parameters]
        inner_losses = []
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(base_level.exemplars)
            for step in range(base_level.num_steps):
                parameters, velocity, loss = self._inner_step(
                    parameters, velocity, base_level.exemplars, *base_level.step_arguments(step)
                )
                inner_losses.append(loss)
            outer_loss = self._outer_loss(parameters, outer_input)
            scaled_loss = self._problem.gradient_scale * outer_loss
        exemplar_gradient = tape.gradient(scaled_loss, base_level.exemplars)
        check_connected(exemplar_gradient)
        return MetaGradientResult(
            outer_loss,
            tf.convert_to_tensor(exemplar_gradient),
            tf.stack(inner_losses),
            list(parameters),
        )


class OnFeatures(MetaGradient):
    """Any estimator, on features in the place of images.

    Where the base level trains only what follows the encoder (scope `classifier`), the features
    F(E) are computed once, `estimator` gives dF, and dE is the vector-Jacobian product of the
    encoder with dF. That is as exact as `estimator`, and T hardly matters to its cost. The inner
    loss of `estimator` gets features as its images.

    Args:
        estimator: what computes the gradient by the features.
        encode: images [m, ...] -> features [m, d], each image by itself (no batch statistics).
        chunk_size: how many images are encoded and differentiated at a time; bounds the memory.
    """

    def __init__(
        self,
        estimator: MetaGradient,
        encode: Callable[[tf.Tensor], tf.Tensor],
        chunk_size: int = 256,
    ):
        self._estimator = estimator
        self._encode = _traced("encode", encode, jit_compile=False)
        self._pull_back = _traced("pull back", self._multiply_by_jacobian, jit_compile=False)
        self._chunk_size = chunk_size

    def _estimate(self, base_level: BaseLevel, outer_input: Nest) -> MetaGradientResult:
        starts = range(0, base_level.exemplars.shape[0], self._chunk_size)
        chunks = [base_level.exemplars[start : start + self._chunk_size] for start in starts]
        features = tf.concat([self._encode(chunk) for chunk in chunks], axis=0)
        result = self._estimator.estimate(
            base_level.parameters,
            features,
            base_level.labels,
            base_level.batches,
            base_level.step_inputs,
            outer_input,
        )
        rows = np.flatnonzero(base_level.learning)
        gradient = tf.zeros_like(base_level.exemplars)
        for start in range(0, len(rows), self._chunk_size):
            chunk = rows[start : start + self._chunk_size]
            images = tf.gather(base_level.exemplars, chunk)
            part = self._pull_back(images, tf.gather(result.exemplar_gradient, chunk))
            gradient = tf.tensor_scatter_nd_update(gradient, chunk[:, None], part)
        return dataclasses.replace(result, exemplar_gradient=gradient)

    def _multiply_by_jacobian(self, images, cotangent):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            features = self._encode(images)
        gradient = tape.gradient(features, images, output_gradients=cotangent)
        check_connected(gradient)
        return gradient


#: Estimators by name: (problem, number of steps that `truncated` goes back, whether XLA compiles)
#: -> estimator.
ESTIMATORS: dict[str, Callable[[BilevelProblem, int, bool], MetaGradient]] = {
    "sweep": lambda problem, truncated_steps, jit: ReverseSweep(problem, None, jit),
    "unroll": lambda problem, truncated_steps, jit: Unroll(problem, jit),
    "truncated": lambda problem, truncated_steps, jit: ReverseSweep(problem, truncated_steps, jit),
    "first_order": lambda problem, truncated_steps, jit: FirstOrder(problem, None, jit),
}


def create(
    name: str, problem: BilevelProblem, truncated_steps: int = 1, jit_compile: bool = False
) -> MetaGradient:
    """Builds an estimator.

    Args:
        name: one of `ESTIMATORS`.
        problem: the two losses and the base level's learning rate.
        truncated_steps: how many of the last inner steps `truncated` goes back; others ignore it.
        jit_compile: whether XLA compiles the graphs, for a GPU.

    Raises:
        UserError: there is no such estimator, or `truncated_steps` is not positive.
    """
    if name not in ESTIMATORS:
        raise errors.UserError(
            f"Unknown meta-gradient estimator {name!r}: choose one of {', '.join(ESTIMATORS)}."
        )
    if truncated_steps < 1:
        raise errors.UserError(
            f"The truncated meta-gradient was told to go back {truncated_steps} inner steps: pass "
            "1 or more."
        )
    return ESTIMATORS[name](problem, truncated_steps, jit_compile)


def _traced(kind: str, function: Callable, jit_compile: bool) -> TracedFunction:
    # A second number of exemplars is traced for all numbers, where shapes need not be known.
    options = {"jit_compile": True} if jit_compile else {"reduce_retracing": True}
    return TracedFunction(f"exemplars, {kind}", function, **options)


def _add_scaled(tensors, increments, factor):
    """Returns tensors + factor * increments, part by part."""
    return [
        tensor + factor * increment for tensor, increment in zip(tensors, increments, strict=True)
    ]


def _inner_product(left, right):
    """Returns <left, right> over lists of tensors of the same shapes."""
    return tf.add_n([tf.reduce_sum(a * b) for a, b in zip(left, right, strict=True)])
