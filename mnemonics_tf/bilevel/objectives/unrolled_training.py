"""Unrolled training: exemplars are as good as the model that they train (Eq. 7-9).

objective = UnrolledTraining(network, InnerSettings(), OuterSettings(), seed=0)
value, gradient = objective.value_and_gradient(images, labels, learning, outer, "step", 0)
"""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from mnemonics_tf import bilevel
from mnemonics_tf.bilevel.base_level import BaseLevel, InnerLoop
from mnemonics_tf.bilevel.batches import balanced_batches
from mnemonics_tf.bilevel.objectives.base import Network, measured
from mnemonics_tf.bilevel.on_features import Encoder
from mnemonics_tf.bilevel.problem import BilevelProblem, MetaGradientResult
from mnemonics_tf.randomness import numpy_generator, stateless_seed
from mnemonics_tf.settings import InnerSettings, OuterSettings


class UnrolledTraining:
    """The paper's: SGD on the exemplars, and the loss of the outcome on real data.

    Args:
        network: Theta', which is trained.
        inner: the base level.
        outer: the meta level, for the factor on the meta-gradient.
        seed: of the run.
        jit_compile: whether XLA compiles inner, reverse and outer steps.

    Attributes:
        inner_loop: a temporary model is trained, with its memory.
    """

    inner_loop = True

    def __init__(
        self,
        network: Network,
        inner: InnerSettings,
        outer: OuterSettings,
        seed: int,
        jit_compile: bool = False,
    ):
        self._network = network
        self._settings = inner
        self._seed = seed
        problem = BilevelProblem(
            self._inner_loss,
            self._outer_loss,
            inner.inner_learning_rate,
            inner.inner_momentum,
            outer.gradient_scale,
        )
        self._inner_loop = InnerLoop(problem, jit_compile)
        self._estimator = bilevel.create(
            inner.meta_gradient, problem, inner.truncated_steps, jit_compile
        )
        self._encoder: Encoder | None = None
        if network.on_features:
            on_features = bilevel.OnFeatures(
                self._estimator, network.encode, network.images_at_once
            )
            self._estimator, self._encoder = on_features, on_features.encoder

    def value_and_gradient(
        self,
        exemplars: tf.Tensor,
        labels: np.ndarray,
        learning: np.ndarray,
        outer: dict[str, tf.Tensor],
        *key: str | int,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        result = self.estimate(exemplars, labels, learning, outer, *key)
        return result.outer_loss, result.exemplar_gradient

    def estimate(
        self,
        exemplars: tf.Tensor,
        labels: np.ndarray,
        learning: np.ndarray,
        outer: dict[str, tf.Tensor],
        *key: str | int,
    ) -> MetaGradientResult:
        """Returns what `value_and_gradient` does and the course of the inner loop."""
        if self._encoder and "feature" not in outer:
            # Some images at a time: no outer batch is too large for it.
            features = self._encoder.features(outer["image"])
            outer = {name: outer[name] for name in outer if name != "image"} | {"feature": features}
        arguments = {
            **self._base_level(labels, *key),
            "outer_input": outer,
            "learning": learning,
        }
        if not self._network.on_features:
            return self._estimator.estimate(
                exemplars=exemplars, step_inputs=self._step_seeds(*key), **arguments
            )
        # Features are computed once for all T steps, and so is the augmentation in front of them.
        with tf.GradientTape() as tape:
            tape.watch(exemplars)
            seed = stateless_seed(self._seed, *key, "augment")
            augmented = self._network.augmented(exemplars, seed)
        result = self._estimator.estimate(exemplars=augmented, **arguments)
        gradient = tape.gradient(augmented, exemplars, result.exemplar_gradient)
        return dataclasses.replace(result, exemplar_gradient=gradient)

    def _base_level(self, labels: np.ndarray, *key: str | int) -> dict[str, Any]:
        """Returns where the base level starts, and what each of its steps sees."""
        size, steps = self._settings.inner_batch_size, self._settings.inner_steps
        generator = numpy_generator(self._seed, *key, "batches")
        return {
            "parameters": self._network.start(*key),
            "labels": labels,
            "batches": balanced_batches(labels, size, steps, generator),
        }

    def _step_seeds(self, *key: str | int) -> tf.Tensor:
        steps = range(self._settings.inner_steps)
        return tf.stack([stateless_seed(self._seed, *key, "inner", t) for t in steps])

    def trained(self, exemplars: tf.Tensor, labels: np.ndarray, *key: str | int) -> list[tf.Tensor]:
        """Returns theta_T, what the base level makes of exemplars (Eq. 8), without a gradient.

        Args:
            exemplars: normalised images, `[n, h, w, c]`.
            labels: `[n]`.
            *key: names the start; decides every draw.
        """
        if self._network.on_features:
            seed = stateless_seed(self._seed, *key, "augment")
            exemplars = self._network.encode(self._network.augmented(exemplars, seed))
            step_inputs = ()
        else:
            step_inputs = self._step_seeds(*key)
        start = self._base_level(labels, *key)
        level = BaseLevel(
            parameters=start["parameters"],
            exemplars=exemplars,
            labels=tf.constant(labels),
            batches=tf.constant(start["batches"]),
            step_inputs=step_inputs,
            learning=np.ones(len(labels), bool),
        )
        parameters, _, _ = self._inner_loop.train(level)
        return parameters

    def _inner_loss(self, parameters, images, labels, seed):
        """L_c of Eq. 7b; `images` are features where only the classifier is trained."""
        logits = self._network.inner_logits(parameters, images, seed)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))

    def _outer_loss(self, parameters, outer):
        """L_c of Eq. 7a."""
        return measured(outer["label"], self._network.outer_logits(parameters, outer), outer)
