"""The unrolled meta-gradient: plain nested tapes, the reference that the sweep is checked against.

meta_gradient = Unroll(BilevelProblem(inner_loss, outer_loss, learning_rate=0.1))
result = meta_gradient.estimate(theta_0, exemplars, labels, batches, outer_input=outer_batch)

Its memory grows with T: the sweep is what to use.
"""

import tensorflow as tf

from mnemonics_tf.bilevel.base_level import BaseLevel, InnerLoop, traced
from mnemonics_tf.bilevel.meta_gradient import MetaGradient, check_connected
from mnemonics_tf.bilevel.problem import BilevelProblem, MetaGradientResult, Nest


class Unroll(MetaGradient):
    """`unroll`: one tape around all T steps; the reference which the sweep is checked against.

    The tape is eager and each step one call of a compiled function. A single graph of T steps takes
    time to trace that grows with T, and from T = 10 on, with a ResNet-32, TensorFlow 2.21's graph
    optimiser rejects it ("nodes in a cycle").
    """

    def __init__(self, problem: BilevelProblem, jit_compile: bool = False):
        self._problem = problem
        self._inner_loop = InnerLoop(problem, jit_compile)
        self._outer_loss = traced("outer loss", problem.outer_loss, jit_compile)

    def _estimate(self, base_level: BaseLevel, outer_input: Nest) -> MetaGradientResult:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(base_level.exemplars)
            parameters, _, inner_losses = self._inner_loop.train(base_level)
            outer_loss = self._outer_loss(parameters, outer_input)
            scaled_loss = self._problem.gradient_scale * outer_loss
        exemplar_gradient = tape.gradient(scaled_loss, base_level.exemplars)
        check_connected(exemplar_gradient)
        return MetaGradientResult(
            outer_loss,
            tf.convert_to_tensor(exemplar_gradient),
            inner_losses,
            parameters,
        )
