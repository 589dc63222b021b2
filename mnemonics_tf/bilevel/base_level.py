"""The base level: SGD of temporary parameters on exemplars, one compiled step at a time (Eq. 8)."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mnemonics_tf.bilevel.problem import BilevelProblem, Nest
from mnemonics_tf.tracing import TracedFunction


@dataclasses.dataclass(frozen=True)
class BaseLevel:
    """The tensors of one call: where the base level starts and what each of its steps sees.

    Attributes:
        parameters: theta_0.
        exemplars: [n, ...].
        labels: [n].
        batches: [T, b], rows of exemplars.
        step_inputs: nest with leading axis T.
        learning: bool [n].
    """

    parameters: list[tf.Tensor]
    exemplars: tf.Tensor
    labels: tf.Tensor
    batches: tf.Tensor
    step_inputs: Nest
    learning: np.ndarray

    @property
    def num_steps(self) -> int:
        """T."""
        return self.batches.shape[0]

    def step_arguments(self, step: int) -> tuple[tf.Tensor, tf.Tensor, Nest]:
        """Returns (batch, labels of the batch, step input) of one step."""
        batch = self.batches[step]
        step_input = tf.nest.map_structure(lambda values: values[step], self.step_inputs)
        return batch, tf.gather(self.labels, batch), step_input


class InnerLoop:
    """The steps of the base level, each one call of a graph, from zero velocity on.

    Args:
        problem: the two losses and the base level's step.
        jit_compile: whether XLA compiles the graph.
    """

    def __init__(self, problem: BilevelProblem, jit_compile: bool = False):
        self._problem = problem
        self._take = traced("inner step", self._take_step, jit_compile)

    def train(
        self, level: BaseLevel, keep_from: int | None = None
    ) -> tuple[list[tf.Tensor], list[list[tf.Tensor]], tf.Tensor]:
        """Returns theta_T, theta_t for t = keep_from..T-1, and the inner losses `[T]` before steps.

        Args:
            level: where it starts, and what its steps see.
            keep_from: the first step whose parameters are kept; None: those of none are.
        """
        parameters = level.parameters
        velocity = [tf.zeros_like(parameter) for parameter in parameters]
        trajectory, losses = [], []
        for step in range(level.num_steps):
            if keep_from is not None and step >= keep_from:
                trajectory.append(parameters)
            parameters, velocity, loss = self._take(
                parameters, velocity, level.exemplars, *level.step_arguments(step)
            )
            losses.append(loss)
        return list(parameters), trajectory, tf.stack(losses)

    def _take_step(self, parameters, velocity, exemplars, batch, labels, step_input):
        images = tf.gather(exemplars, batch)
        loss, gradient = inner_gradient(self._problem, parameters, images, labels, step_input)
        velocity = add_scaled(gradient, velocity, self._problem.momentum)
        parameters = add_scaled(parameters, velocity, -self._problem.learning_rate)
        return parameters, velocity, loss


def inner_gradient(problem: BilevelProblem, parameters, images, labels, step_input):
    """Returns the inner loss and its gradient by the parameters."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(parameters)
        loss = problem.inner_loss(parameters, images, labels, step_input)
    return loss, dense_gradient(tape, loss, parameters)


def dense_gradient(tape: tf.GradientTape, loss: tf.Tensor, parameters) -> list[tf.Tensor]:
    """Returns a gradient by parameters as tensors: those that a loss gathers have one of slices.

    That of a parameter which the loss does not use is zero: it just stays where it is.
    """
    gradient = tape.gradient(loss, parameters, unconnected_gradients="zero")
    return [tf.convert_to_tensor(part) for part in gradient]


def traced(kind: str, function: Callable, jit_compile: bool) -> TracedFunction:
    """Returns a function of tensors as a graph, whose traces are counted as exemplar learning's."""
    # A second number of exemplars is traced for all numbers, where shapes need not be known.
    options = {"jit_compile": True} if jit_compile else {"reduce_retracing": True}
    return TracedFunction(f"exemplars, {kind}", function, **options)


def add_scaled(tensors, increments, factor):
    """Returns tensors + factor * increments, part by part."""
    return [
        tensor + factor * increment for tensor, increment in zip(tensors, increments, strict=True)
    ]
