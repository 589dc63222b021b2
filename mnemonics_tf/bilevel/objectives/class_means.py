"""Class means: exemplars are as good as their features' means classify real data.

    objective = ClassMeans(network, InnerSettings(), OuterSettings(), seed=0)
    value, gradient = objective.value_and_gradient(images, labels, learning, outer, "step", 0)

Much as what the authors released in the place of Eq. 7 to 9 (`1_train/trainer/mnemonics.py`): one
level, without an inner loop. There, from the second phase on, the softmax runs over the means of
all classes seen, and the real images are D_i and the old exemplars, cropped and mirrored. Here new
classes stand alone unless old exemplars are passed with them (`--train_beside_old`, which comes
closest), and nothing is augmented.
"""

import numpy as np
import tensorflow as tf

from mnemonics_tf.bilevel.base_level import traced
from mnemonics_tf.bilevel.objectives.base import Network, measured
from mnemonics_tf.bilevel.on_features import Encoder
from mnemonics_tf.settings import InnerSettings, OuterSettings


class ClassMeans:
    """Softmax over the cosines between real images' features and exemplars' class means.

    The logit of class k for a real image x is cos(F(x), mu_k), with mu_k the mean feature of the
    class's exemplars; there is no temperature, as in the authors' release. Each class of the real
    images has exemplars. Nothing is trained or augmented.

    Args:
        network: gives the features.
        inner: not used: there is no inner loop.
        outer: the meta level, for the factor on the gradient.
        seed: not used: nothing is drawn.
        jit_compile: whether XLA compiles the graph that follows the features.
    """

    def __init__(
        self,
        network: Network,
        inner: InnerSettings,
        outer: OuterSettings,
        seed: int,
        jit_compile: bool = False,
    ):
        del inner, seed
        self._scale = outer.gradient_scale
        self._encoder = Encoder(network.encode, network.images_at_once)
        self._on_features = traced("class means", self._differentiate, jit_compile)

    def value_and_gradient(
        self,
        exemplars: tf.Tensor,
        labels: np.ndarray,
        learning: np.ndarray,
        outer: dict[str, tf.Tensor],
        *key: str | int,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        classes, owners = np.unique(labels, return_inverse=True)
        places = np.searchsorted(classes, np.asarray(outer["label"]))
        measured_on: dict[str, tf.Tensor] = {
            name: outer[name] for name in ("feature", "weight") if name in outer
        }
        if "feature" not in measured_on:
            measured_on["feature"] = self._encoder.features(outer["image"])
        members = tf.one_hot(owners, len(classes), axis=0, dtype=exemplars.dtype)
        value, cotangent = self._on_features(
            self._encoder.features(exemplars), members, tf.constant(places), measured_on
        )
        return value, self._encoder.pull_back(exemplars, cotangent, np.flatnonzero(learning))

    def _differentiate(self, features, members, places, outer):
        """Returns the loss and the derivative of its scaled value by the exemplars' features.

        Args:
            features: of the exemplars, `[n, d]`.
            members: 1 where an exemplar is of a class, `[classes, n]`.
            places: of the real images' classes, `[m]`.
            outer: `feature` `[m, d]` and perhaps `weight` `[m]`.
        """
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(features)
            means = tf.math.l2_normalize(members @ features, axis=1)  # a sum's length cancels
            real = tf.math.l2_normalize(outer["feature"], axis=1)
            value = measured(places, real @ tf.transpose(means), outer)
            scaled = self._scale * value
        return value, tape.gradient(scaled, features)
