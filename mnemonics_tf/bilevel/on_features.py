"""Any estimator on features: for a base level that trains only what follows the encoder.

    meta_gradient = OnFeatures(Sweep(problem_on_features), encode)
    result = meta_gradient.estimate(theta_0, exemplars, labels, batches, outer_input=outer_batch)

The encoder itself gets no parameters that learn.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mnemonics_tf.bilevel.base_level import BaseLevel, traced
from mnemonics_tf.bilevel.meta_gradient import MetaGradient, check_connected
from mnemonics_tf.bilevel.problem import MetaGradientResult, Nest

#: images that are encoded and differentiated at a time; bounds the memory
CHUNK_SIZE = 256


class Encoder:
    """Features of images, and gradients by features pulled back to pixels, some images at a time.

    Args:
        encode: images [m, ...] -> features [m, d], each image by itself (no batch statistics).
        chunk_size: how many images at a time.
    """

    def __init__(self, encode: Callable[[tf.Tensor], tf.Tensor], chunk_size: int = CHUNK_SIZE):
        self._encode = traced("encode", encode, jit_compile=False)
        self._pull_back = traced("pull back", self._multiply_by_jacobian, jit_compile=False)
        self._chunk_size = chunk_size

    def features(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the features `[n, d]` of images `[n, ...]`."""
        starts = range(0, images.shape[0], self._chunk_size)
        chunks = [images[start : start + self._chunk_size] for start in starts]
        return tf.concat([self._encode(chunk) for chunk in chunks], axis=0)

    def pull_back(self, images: tf.Tensor, cotangent: tf.Tensor, rows: np.ndarray) -> tf.Tensor:
        """Returns the vector-Jacobian product `[n, ...]` with a gradient by the features.

        Args:
            images: `[n, ...]`.
            cotangent: gradient by the features, `[n, d]`.
            rows: images whose product is wanted; that of the others is zero.
        """
        gradient = tf.zeros_like(images)
        for start in range(0, len(rows), self._chunk_size):
            chunk = rows[start : start + self._chunk_size]
            part = self._pull_back(tf.gather(images, chunk), tf.gather(cotangent, chunk))
            gradient = tf.tensor_scatter_nd_update(gradient, chunk[:, None], part)
        return gradient

    def _multiply_by_jacobian(self, images, cotangent):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            features = self._encode(images)
        gradient = tape.gradient(features, images, output_gradients=cotangent)
        check_connected(gradient)
        return gradient


class OnFeatures(MetaGradient):
    """Any estimator, on features in the place of images.

    Where the base level trains only what follows the encoder (scope `classifier`), the features
    F(E) are computed once, `estimator` gives dF, and dE is the vector-Jacobian product of the
    encoder with dF. That is as exact as `estimator`, and T hardly matters to its cost. The inner
    loss of `estimator` gets features as its images.

    Args:
        estimator: what computes the gradient by the features.
        encode: images [m, ...] -> features [m, d], each image by itself (no batch statistics).
        chunk_size: how many images are encoded and differentiated at a time; bounds the memory.

    Attributes:
        encoder: gives the features, of other images too.
    """

    def __init__(
        self,
        estimator: MetaGradient,
        encode: Callable[[tf.Tensor], tf.Tensor],
        chunk_size: int = CHUNK_SIZE,
    ):
        self._estimator = estimator
        self.encoder = Encoder(encode, chunk_size)

    def _estimate(self, base_level: BaseLevel, outer_input: Nest) -> MetaGradientResult:
        exemplars = base_level.exemplars
        result = self._estimator.estimate(
            base_level.parameters,
            self.encoder.features(exemplars),
            base_level.labels,
            base_level.batches,
            base_level.step_inputs,
            outer_input,
        )
        rows = np.flatnonzero(base_level.learning)
        gradient = self.encoder.pull_back(exemplars, result.exemplar_gradient, rows)
        return dataclasses.replace(result, exemplar_gradient=gradient)
