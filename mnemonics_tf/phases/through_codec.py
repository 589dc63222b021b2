"""Exemplars that learn through their codec: what an objective sees is what will be stored."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mnemonics_tf.bilevel.objectives.base import Objective
from mnemonics_tf.bilevel.on_features import Encoder
from mnemonics_tf.data.pipeline import Normalization


class ThroughCodec:
    """An objective of exemplars as a codec gives them back.

    The objective says how each decoded pixel changes its value; the derivative of the relaxed codec
    takes that to the pixels that are encoded. Exemplars that do not learn are decoded already.

    Args:
        objective: of decoded exemplars.
        relaxed: the codec's function from pixels to decoded pixels, with a derivative.
        normalization: of pixels.
    """

    def __init__(
        self,
        objective: Objective,
        relaxed: Callable[[tf.Tensor], tf.Tensor],
        normalization: Normalization,
    ):
        def decode(images):
            pixels = relaxed(normalization.denormalize(images))
            return normalization.normalize(pixels, images.dtype)

        self._objective = objective
        self._codec = Encoder(decode)

    def value_and_gradient(
        self,
        exemplars: tf.Tensor,
        labels: np.ndarray,
        learning: np.ndarray,
        outer: dict[str, tf.Tensor],
        *key: str | int,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the value of decoded exemplars, and its gradient by those that are encoded.

        Args:
            exemplars: as an objective takes them.
            labels: as there.
            learning: as there; some learn.
            outer: as there.
            *key: as there.
        """
        rows = np.flatnonzero(learning)
        decoded = tf.tensor_scatter_nd_update(
            exemplars, rows[:, None], self._codec.features(tf.gather(exemplars, rows))
        )
        value, gradient = self._objective.value_and_gradient(decoded, labels, learning, outer, *key)
        return value, self._codec.pull_back(exemplars, gradient, rows)
