"""Bilevel problems for tests of the meta-gradient, and what its estimators are compared with."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from mnemonics_tf import bilevel
from mnemonics_tf.bilevel.problem import BilevelProblem


def first_order(problem):
    return bilevel.Sweep(problem, products=bilevel.first_order_products)


EXACT = {
    "sweep": bilevel.Sweep,
    "unroll": bilevel.Unroll,
    "truncated": lambda problem: bilevel.Sweep(problem, last_steps=100),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A bilevel problem and one set of arguments for `estimate`."""

    problem: BilevelProblem
    parameters: list[tf.Tensor]
    exemplars: np.ndarray
    labels: np.ndarray
    batches: np.ndarray
    step_inputs: Any = ()
    outer_input: Any = ()

    def estimate(self, estimator, learning=None):
        return estimator.estimate(
            self.parameters,
            self.exemplars,
            self.labels,
            self.batches,
            self.step_inputs,
            self.outer_input,
            learning,
        )

    def with_problem(self, **changes):
        return dataclasses.replace(self, problem=dataclasses.replace(self.problem, **changes))


def train(case, exemplars, first_differentiable_step=0, keep_hessian=True):
    """Base level and outer loss as plainly as can be; returns (outer loss, parameters)."""
    parameters = [tf.convert_to_tensor(parameter) for parameter in case.parameters]
    velocity = [tf.zeros_like(parameter) for parameter in parameters]
    for step, batch in enumerate(case.batches):
        images = tf.gather(exemplars, batch)
        if step < first_differentiable_step:
            images = tf.stop_gradient(images)
        step_input = tf.nest.map_structure(lambda values, step=step: values[step], case.step_inputs)
        at = parameters if keep_hessian else [tf.stop_gradient(part) for part in parameters]
        with tf.GradientTape() as tape:
            tape.watch(at)
            loss = case.problem.inner_loss(at, images, case.labels[batch], step_input)
        gradient = tape.gradient(loss, at, unconnected_gradients="zero")
        velocity = [case.problem.momentum * v + g for v, g in zip(velocity, gradient, strict=True)]
        parameters = [
            p - case.problem.learning_rate * v for p, v in zip(parameters, velocity, strict=True)
        ]
    return case.problem.outer_loss(parameters, case.outer_input), parameters


def gradient_by_tapes(case, **options):
    """The gradient by one eager tape around `train`."""
    exemplars = tf.convert_to_tensor(case.exemplars)
    with tf.GradientTape() as tape:
        tape.watch(exemplars)
        loss, _ = train(case, exemplars, **options)
    return tf.convert_to_tensor(tape.gradient(loss, exemplars)).numpy()


def directional_differences(case, directions, step, points=((1, 0.5),)):
    """Derivatives of the outer loss along directions in exemplar space, by central differences."""
    measure = tf.function(lambda exemplars: train(case, exemplars)[0])

    def derivative(direction):
        return sum(
            weight
            * float(
                measure(tf.constant(case.exemplars + multiple * step * direction))
                - measure(tf.constant(case.exemplars - multiple * step * direction))
            )
            for multiple, weight in points
        )

    return np.array([derivative(direction) for direction in directions]) / step


#: (multiple of the step, weight): the error falls with the fourth power of the step
FOURTH_ORDER = ((1, 2 / 3), (2, -1 / 12))


def relative_error(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def cosine(left, right):
    return np.vdot(left, right) / (np.linalg.norm(left) * np.linalg.norm(right))


def random_directions(shape, count, seed=7):
    directions = np.random.default_rng(seed).normal(size=(count, *shape))
    return directions / np.sqrt(np.prod(shape))
