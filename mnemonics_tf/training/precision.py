"""Mixed precision: activations in 16 bits, and the loss scaling that float16 needs."""

import tensorflow as tf

_FIRST_SCALE = 2.0**15
_STEPS_TO_DOUBLE = 2000

#: steps in a row, left out without any scale, after which no later one is to be expected
_HOPELESS = 8


class LossScale:
    """A factor on the loss that keeps float16 gradients from vanishing, and from overflowing.

    A step with a gradient that is not finite is left out and halves the factor; 2000 steps in a row
    without one double it. Keras' LossScaleOptimizer is not used: it asks the first replica only
    whether gradients are finite, and takes them as summed already, which they are not.

    Source: Micikevicius et al., Mixed Precision Training, ICLR 2018.
    """

    def __init__(self):
        self.factor = tf.Variable(_FIRST_SCALE, trainable=False, name="loss_scale")
        self.good_steps = tf.Variable(0, trainable=False, name="good_steps")
        self._left_out = tf.Variable(0, trainable=False, name="left_out")

    @property
    def hopeless(self) -> bool:
        """Whether gradients stay infinite, or no numbers, without any scale."""
        return int(self._left_out.numpy()) >= _HOPELESS

    @property
    def variables(self) -> list[tf.Variable]:
        """What a checkpoint must hold."""
        return [self.factor, self.good_steps]

    def reset(self) -> None:
        """Goes back to the first factor."""
        self.factor.assign(_FIRST_SCALE)
        self.good_steps.assign(0)
        self._left_out.assign(0)

    def update(self, finite: tf.Tensor) -> None:
        """Adapts the factor to whether all gradients of a step were finite."""
        at_one = tf.logical_and(tf.logical_not(finite), self.factor <= 1.0)
        self._left_out.assign(tf.where(at_one, self._left_out + 1, 0))
        good_steps = tf.where(finite, self.good_steps + 1, 0)
        doubles = good_steps >= _STEPS_TO_DOUBLE
        change = tf.where(finite, tf.where(doubles, 2.0, 1.0), 0.5)
        self.factor.assign(tf.maximum(self.factor * change, 1.0))
        self.good_steps.assign(tf.where(doubles, 0, good_steps))


def count_not_finite(gradients: list[tf.Tensor]) -> tf.Tensor:
    """Returns how many tensors have an entry that is infinite or no number, as a float scalar."""
    finite = [tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients]
    return tf.reduce_sum(1 - tf.cast(finite, tf.float32))
