"""What an objective sees is decoded, and its gradient goes back to what is encoded."""

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.pipeline import Normalization
from mnemonics_tf.phases.through_codec import ThroughCodec

NORMALIZATION = Normalization((0.5,), (0.25,))
LEARNING = np.array([True, False, True])


class Squares:
    """Half the sum of squares; keeps what it saw."""

    def value_and_gradient(self, exemplars, labels, learning, outer, *key):
        self.saw = exemplars.numpy()
        return tf.reduce_sum(tf.square(exemplars)) / 2, exemplars


def halved(pixels):
    return pixels / 2


def test_those_that_learn_are_decoded_and_only_they():
    images = tf.random.stateless_normal([3, 4, 4, 1], [0, 0])
    objective = Squares()
    through = ThroughCodec(objective, halved, NORMALIZATION)
    value, gradient = through.value_and_gradient(images, np.arange(3), LEARNING, {}, "step", 0)
    decoded = NORMALIZATION.normalize(halved(NORMALIZATION.denormalize(images))).numpy()
    expected = np.where(LEARNING[:, None, None, None], decoded, images)
    np.testing.assert_allclose(objective.saw, expected, rtol=1e-6)
    np.testing.assert_allclose(value, np.square(expected).sum() / 2, rtol=1e-5)
    np.testing.assert_allclose(gradient[0], decoded[0] / 2, rtol=1e-5)  # the codec halves
    assert not np.any(gradient[1])
