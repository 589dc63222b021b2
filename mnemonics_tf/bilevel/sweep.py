"""The reverse sweep: the exact meta-gradient, at the memory of one step.

    meta_gradient = Sweep(BilevelProblem(inner_loss, outer_loss, learning_rate=0.1))
    result = meta_gradient.estimate(theta_0, exemplars, labels, batches, outer_input=outer_batch)

The recursion stands in the package's docstring.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mnemonics_tf.bilevel.base_level import (
    BaseLevel,
    InnerLoop,
    add_scaled,
    dense_gradient,
    inner_gradient,
    traced,
)
from mnemonics_tf.bilevel.meta_gradient import MetaGradient, check_connected
from mnemonics_tf.bilevel.problem import BilevelProblem, MetaGradientResult, Nest

#: (problem, parameters, images, labels, step input, direction) -> derivatives of
#: <grad_theta inner loss, direction> by the parameters and by the images
Products = Callable[..., tuple[list[tf.Tensor], Any]]


class Sweep(MetaGradient):
    """`sweep` and `truncated`: forward through the T steps, then backwards over theta_T..theta_0.

    The compiled functions each cover one step and are called from Python: the activations of a step
    are gone before the next one begins, so that memory grows by the parameters alone with T.

    With `last_steps` None, or at least T, and exact products the gradient is exact. With K < T
    steps, what the earlier steps do to parameters and velocity counts as constant, and their
    parameters are not kept.

    Args:
        problem: the two losses and the base level's step.
        last_steps: how many steps to go back; None goes back to the first.
        products: Hessian and mixed product of one step.
        jit_compile: whether XLA compiles the graphs.
    """

    def __init__(
        self,
        problem: BilevelProblem,
        last_steps: int | None = None,
        products: Products | None = None,
        jit_compile: bool = False,
    ):
        self._problem = problem
        self._last_steps = last_steps
        self._products = products or exact_products
        self._inner_loop = InnerLoop(problem, jit_compile)
        self._outer_gradient = traced("outer loss", self._differentiate_outer_loss, jit_compile)
        self._reverse_step = traced("reverse step", self._take_reverse_step, jit_compile)

    def _estimate(self, base_level: BaseLevel, outer_input: Nest) -> MetaGradientResult:
        num_steps = base_level.num_steps
        first_step = max(0, num_steps - (self._last_steps or num_steps))
        parameters, trajectory, inner_losses = self._inner_loop.train(base_level, first_step)
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
        return MetaGradientResult(outer_loss, exemplar_gradient, inner_losses, parameters)

    def _differentiate_outer_loss(self, parameters, outer_input):
        """Returns the outer loss and lambda_T."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(parameters)
            loss = self._problem.outer_loss(parameters, outer_input)
        adjoint = dense_gradient(tape, loss, parameters)
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
        direction = add_scaled(velocity_adjoint, adjoint, -self._problem.learning_rate)
        hessian_product, mixed_product = self._products(
            self._problem,
            parameters,
            tf.gather(exemplars, batch),
            labels,
            step_input,
            direction,
        )
        adjoint = add_scaled(adjoint, hessian_product, 1.0)
        velocity_adjoint = [self._problem.momentum * part for part in direction]
        # Adds: an exemplar seen in several steps, or twice in one, collects all its parts.
        exemplar_gradient = tf.tensor_scatter_nd_add(
            exemplar_gradient, batch[:, tf.newaxis], mixed_product
        )
        return adjoint, velocity_adjoint, exemplar_gradient


def exact_products(problem: BilevelProblem, parameters, images, labels, step_input, direction):
    """Returns the derivatives of <grad_theta inner loss, direction> by theta and by the images."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([parameters, images])
        _, gradient = inner_gradient(problem, parameters, images, labels, step_input)
        product = _inner_product(gradient, direction)
    # None marks what the product cannot depend on. That is sound for a parameter in which the
    # loss is linear, and a mistake for the images.
    *hessian_product, mixed_product = tape.gradient(product, [*parameters, images])
    check_connected(mixed_product)
    hessian_product = [
        tf.zeros_like(parameter) if part is None else tf.convert_to_tensor(part)
        for parameter, part in zip(parameters, hessian_product, strict=True)
    ]
    return hessian_product, mixed_product


def _inner_product(left, right):
    """Returns <left, right> over lists of tensors of the same shapes."""
    return tf.add_n([tf.reduce_sum(a * b) for a, b in zip(left, right, strict=True)])
