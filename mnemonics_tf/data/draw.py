"""Which images an epoch sees: all of them, or of some classes a part that is drawn anew."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.image_set import ImageSet


class Draw:
    """Rows of which every epoch sees some always, and of pools as many as are taken, drawn anew.

    How many rows an epoch has never changes. What it sees follows from its seed alone. Where more
    are taken of a pool than it has, it is gone through again.

    Args:
        always: rows that every epoch sees, `[f]`.
        pools: rows of each pool, one at least.
        takes: how many rows an epoch takes of each pool.
    """

    def __init__(self, always: np.ndarray, pools: Sequence[np.ndarray], takes: Sequence[int]):
        sizes = np.array([len(pool) for pool in pools], np.int64)
        widest = int(sizes.max(initial=0))
        self._always = np.asarray(always, np.int64)
        self._pools = np.zeros((len(pools), widest), np.int64)
        for row, pool in zip(self._pools, pools, strict=True):
            row[: len(pool)] = pool
        self._there = np.arange(widest) < sizes[:, None]
        pool_of = np.repeat(np.arange(len(pools)), takes)
        places = np.concatenate(
            [np.arange(take) % size for take, size in zip(takes, sizes, strict=True)]
        )
        self._taken = np.stack([pool_of, places], axis=1)

    def __len__(self) -> int:
        return len(self._always) + len(self._taken)

    def rows(self, seed: tf.Tensor) -> tf.Tensor:
        """Returns an epoch's rows, int64 `[len]`, in no meant order; in a graph.

        Args:
            seed: int32 `[2]`, of the epoch.
        """
        keys = tf.random.stateless_uniform(self._pools.shape, seed)
        order = tf.argsort(tf.where(self._there, keys, 2.0), axis=1, stable=True)
        drawn = tf.gather(tf.constant(self._pools), order, batch_dims=1)
        return tf.concat([self._always, tf.gather_nd(drawn, self._taken)], axis=0)


def replayed(labels: np.ndarray, exemplars: np.ndarray, per_class: int) -> Draw | None:
    """Returns the draw of all new images and at most so many exemplars of each class.

    Args:
        labels: `[n]`.
        exemplars: which of the images are exemplars, bool `[n]`.
        per_class: at most; 0: all.

    Returns:
        None where every epoch sees all images.
    """
    pools = _by_class(labels, np.flatnonzero(exemplars))
    if not per_class or all(len(pool) <= per_class for pool in pools):
        return None
    takes = [min(len(pool), per_class) for pool in pools]
    return Draw(np.flatnonzero(~exemplars), pools, takes)


def balanced(labels: np.ndarray, most: int) -> Draw | None:
    """Returns the draw of as many images of each class: the mean number, or `most`.

    Of a class that has more, an epoch sees a part; one that has fewer is seen repeatedly. An epoch
    is then as long as one over all images.

    Args:
        labels: `[n]`.
        most: of a class in an epoch; 0: no bound.

    Returns:
        None where every epoch sees all images, as many of each class.
    """
    pools = _by_class(labels, np.arange(len(labels)))
    take = max(1, round(len(labels) / len(pools)))
    take = min(take, most) if most else take
    if all(len(pool) == take for pool in pools):
        return None
    return Draw(np.zeros([0]), pools, [take] * len(pools))


def epoch_size(images: ImageSet, draw: Draw | None) -> int:
    """Returns how many images an epoch has."""
    return len(images) if draw is None else len(draw)


def _by_class(labels: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    return [rows[labels[rows] == label] for label in np.unique(labels[rows])]
