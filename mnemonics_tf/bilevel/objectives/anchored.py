"""Anchored: exemplars keep the features and class probabilities of the images they began as.

    objective = Anchored(network, InnerSettings(), OuterSettings(), seed=0)
    outer = {"feature": features_of_their_real_images, "row": tf.range(len(images))}
    value, gradient = objective.value_and_gradient(images, labels, learning, outer, "step", 0)

Of use where a codec stands between exemplars and network (`ThroughCodec`): what is lost in it is
what there is to learn. The paper has no codec, and no such objective: it is this project's.
"""

from typing import Protocol

import numpy as np
import tensorflow as tf

from mnemonics_tf.bilevel.base_level import traced
from mnemonics_tf.bilevel.objectives.base import Network
from mnemonics_tf.bilevel.on_features import Encoder
from mnemonics_tf.settings import InnerSettings, OuterSettings


class Classifying(Network, Protocol):
    """A network that also says what its own classifier does."""

    def logits(self, features: tf.Tensor) -> tf.Tensor:
        """Returns logits `[n, classes]` of features `[n, d]`."""


class Anchored:
    """Squared distance of features, relative to their size, and divergence of probabilities.

    For an exemplar e that began as the real image x,

        |F(e) - F(x)|^2 / |F(x)|^2 + KL(p(x) || p(e)),

    with the network's own classifier in p. Nothing is trained and nothing is augmented.

    Args:
        network: gives features and logits.
        inner: not used: there is no inner loop.
        outer: the meta level, for the factor on the gradient.
        seed: not used: nothing is drawn.
        jit_compile: whether XLA compiles the graph of loss and gradient.

    Attributes:
        on_originals: outer batches are the exemplars' own real images: `row` `[m]` says which
            exemplar of the step each belongs to.
    """

    on_originals = True

    def __init__(
        self,
        network: Classifying,
        inner: InnerSettings,
        outer: OuterSettings,
        seed: int,
        jit_compile: bool = False,
    ):
        del inner, seed
        self._scale = outer.gradient_scale
        self._network = network
        self._images_at_once = network.images_at_once
        self._encoder = Encoder(network.encode, network.images_at_once)
        self._measure = traced("anchored", self._measured, jit_compile)

    def value_and_gradient(
        self,
        exemplars: tf.Tensor,
        labels: np.ndarray,
        learning: np.ndarray,
        outer: dict[str, tf.Tensor],
        *key: str | int,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        rows = np.asarray(outer["row"])
        images = tf.gather(exemplars, rows)
        target = outer["feature"] if "feature" in outer else self._encoder.features(outer["image"])
        share = tf.constant(1 / len(rows), images.dtype)
        weight = outer.get("weight", tf.fill([len(rows)], share))
        # Each exemplar has a term of its own: some at a time bound the memory.
        starts = range(0, len(rows), self._images_at_once)
        chunks = [
            [values[start : start + self._images_at_once] for values in (images, target, weight)]
            for start in starts
        ]
        values, gradients = zip(*(self._measure(*chunk) for chunk in chunks), strict=True)
        learns = tf.reshape(tf.constant(learning[rows], images.dtype), [-1, 1, 1, 1])
        gradient = learns * tf.concat(gradients, axis=0)
        return tf.add_n(values), tf.scatter_nd(rows[:, None], gradient, exemplars.shape)

    def _measured(self, images, target, weight):
        """Returns the loss of some exemplars and the derivative of its scaled value by them.

        Args:
            images: of the exemplars, `[m, h, w, c]`.
            target: features of their real images, `[m, d]`.
            weight: of each in the loss, `[m]`.
        """
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            features = self._network.encode(images)
            size = tf.reduce_sum(tf.square(target), axis=1)
            distance = tf.reduce_sum(tf.square(features - target), axis=1)
            real = self._network.logits(target)
            ours = tf.nn.log_softmax(self._network.logits(features))
            divergence = tf.reduce_sum(
                tf.nn.softmax(real) * (tf.nn.log_softmax(real) - ours), axis=1
            )
            value = tf.reduce_sum(weight * (tf.math.divide_no_nan(distance, size) + divergence))
            scaled = self._scale * value
        return value, tape.gradient(scaled, images)
