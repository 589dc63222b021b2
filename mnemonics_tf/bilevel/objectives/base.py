"""What an objective is asked, and what it may ask of the network that exemplars are made for."""

from typing import Protocol

import numpy as np
import tensorflow as tf


class Network(Protocol):
    """A network as functions of arrays; none of them changes it.

    Attributes:
        on_features: whether the inner loop trains only what follows the encoder, so that all
            functions of trained parameters take features in the place of images.
        images_at_once: how many images pass the encoder at a time, which bounds the memory.
    """

    on_features: bool
    images_at_once: int

    def start(self, *key: str | int) -> list[tf.Tensor]:
        """Returns theta_0 of the outer step that `key` names."""

    def augmented(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns images `[n, h, w, c]` as the inner loop sees them, by an int32 seed `[2]`."""

    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """Returns features `[n, d]` of images `[n, h, w, c]`, each image by itself."""

    def inner_logits(
        self, parameters: list[tf.Tensor], images: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Returns logits `[n, classes]` in the inner loop, of augmented images."""

    def outer_logits(self, parameters: list[tf.Tensor], outer: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns logits `[m, classes]` of an outer batch, as any test of a model has them."""


class Objective(Protocol):
    """Measures exemplars on real data, and says how each of their pixels changes that.

    It is built as `Objective(network, inner, outer, seed, jit_compile)`: with the settings of base
    and meta level, the seed of its draws, and whether XLA compiles its graphs.
    """

    def value_and_gradient(
        self,
        exemplars: tf.Tensor,
        labels: np.ndarray,
        learning: np.ndarray,
        outer: dict[str, tf.Tensor],
        *key: str | int,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the meta loss, a scalar, and its gradient by the exemplars, `[n, h, w, c]`.

        Args:
            exemplars: normalised images of the outer step, `[n, h, w, c]`.
            labels: `[n]`.
            learning: bool `[n]`, those whose gradient is wanted; that of the others is zero.
            outer: the batch they are measured on: `label` `[m]` and either `image`, normalised,
                `[m, h, w, c]`, or `feature` `[m, d]`. With `weight` `[m]` the loss is the weighted
                sum, without it the mean.
            *key: names the outer step; decides every draw.
        """


def measured(labels: tf.Tensor, logits: tf.Tensor, outer: dict[str, tf.Tensor]) -> tf.Tensor:
    """Returns the cross-entropy over an outer batch: its weighted sum, or the mean.

    Args:
        labels: `[m]`.
        logits: `[m, classes]`.
        outer: the batch; its `weight` `[m]`, if it has any, counts.
    """
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    if "weight" in outer:
        return tf.reduce_sum(outer["weight"] * losses)
    return tf.reduce_mean(losses)
