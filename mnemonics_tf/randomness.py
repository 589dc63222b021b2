"""Stateless random numbers: a seed and a key decide every draw, so a resumed run repeats them."""

import hashlib
from collections.abc import Mapping

import numpy as np
import tensorflow as tf


def derive_seed(seed: int, *key: str | int) -> int:
    """Returns a 31-bit seed for the purpose that `key` names, e.g. `("shuffle", phase, epoch)`.

    Different keys give unrelated seeds; the same seed and key always give the same one, on any
    machine.
    """
    text = "/".join([str(seed), *map(str, key)])
    digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") & 0x7FFFFFFF


def numpy_generator(seed: int, *key: str | int) -> np.random.Generator:
    """Returns a NumPy generator for the purpose that `key` names."""
    return np.random.default_rng(derive_seed(seed, *key))


def stateless_seed(seed: int, *key: str | int) -> tf.Tensor:
    """Returns the int32 `[2]` seed that `tf.random.stateless_*` take, for the purpose `key`."""
    return tf.constant([derive_seed(seed, *key), derive_seed(seed, *key, "second")], tf.int32)


def some_of_each(
    labels: np.ndarray, counts: Mapping[int, int], seed: int, *key: str | int
) -> np.ndarray:
    """Returns a random part of each class as bool `[n]`; what is drawn of one depends on it alone.

    Args:
        labels: `[n]`.
        counts: how many of a class, by label; none of one that is not there.
        seed: with the key and a label it decides which.
        *key: names the purpose.
    """
    drawn = np.zeros(len(labels), bool)
    for label, count in counts.items():
        members = np.flatnonzero(labels == label)
        drawn[numpy_generator(seed, *key, label).permutation(members)[:count]] = True
    return drawn
