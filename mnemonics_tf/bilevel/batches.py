"""Class-balanced orders, batches and subsets of exemplars."""

import numpy as np

from mnemonics_tf.errors import UserError
from mnemonics_tf.settings import OuterSettings


def balanced_order(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns the rows in a random order in which every stretch holds all classes about evenly.

    The k-th members (in random order) of all classes come before any (k + 1)-th member.
    """
    order = generator.permutation(len(labels))
    return order[np.argsort(_ranks(labels[order]), kind="stable")]


def _spread_order(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns the rows in a random order over which each class is spread from beginning to end.

    Where all classes are of one size it is the balanced order; where they are not, that one ends
    with the largest alone.
    """
    order = generator.permutation(len(labels))
    _, kind, sizes = np.unique(labels[order], return_inverse=True, return_counts=True)
    places = (_ranks(labels[order]) + 0.5) / sizes[kind]
    return order[np.argsort(places, kind="stable")]


def _ranks(labels: np.ndarray) -> np.ndarray:
    """Returns the place of each row among those of its class, from 0 on."""
    ranks = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        ranks[members] = np.arange(len(members))
    return ranks


def balanced_batches(
    labels: np.ndarray, size: int, steps: int, generator: np.random.Generator
) -> np.ndarray:
    """Returns batches `[T, b]` of rows, in each as much of a class as its size has it.

    An epoch sees every row once, but for a rest of less than b, which others see.

    Args:
        labels: `[n]`.
        size: b; 0 or more than there are means all rows.
        steps: T.
        generator: decides which row comes when.
    """
    size = size or len(labels)
    if size >= len(labels):
        return np.tile(np.arange(len(labels), dtype=np.int32), (steps, 1))
    per_epoch = len(labels) // size
    epochs = [
        _spread_order(labels, generator)[: per_epoch * size].reshape(per_epoch, size)
        for _ in range(-(-steps // per_epoch))
    ]
    return np.concatenate(epochs)[:steps].astype(np.int32)


def split_balanced(
    labels: np.ndarray, num_subsets: int, generator: np.random.Generator
) -> np.ndarray:
    """Returns the subset `[n]` of each row, as many rows of a class in each as can be.

    Args:
        labels: `[n]`.
        num_subsets: k of Eq. 10 and the paragraph after it.
        generator: decides which row comes into which subset.
    """
    subset = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        # A random first subset spreads what does not divide evenly over the subsets.
        subset[members] = (np.arange(len(members)) + generator.integers(num_subsets)) % num_subsets
    return subset


def largest_parts(labels: np.ndarray, num_subsets: int) -> tuple[int, int]:
    """Returns how many rows a subset of `split_balanced`, and what it leaves, can have at most.

    Args:
        labels: `[n]`.
        num_subsets: k.
    """
    counts = np.bincount(labels)
    return int(np.sum(-(-counts // num_subsets))), int(np.sum(counts - counts // num_subsets))


def check_step(outer: OuterSettings, num_classes: int) -> None:
    """Refuses outer steps that have no room for an exemplar of each class.

    A temporary model that never saw a class would be measured on it, and the loss there would drown
    all others.

    Args:
        outer: of the meta level.
        num_classes: at most, that exemplars of an outer step are of.

    Raises:
        UserError: names what is enough.
    """
    if 0 < outer.exemplars_per_step < num_classes:
        raise UserError(
            f"--exemplars_per_step={outer.exemplars_per_step} has no room for one exemplar of each "
            f"of the {num_classes} classes that an outer step has where exemplars learn or are "
            f"adjusted: pass at least {num_classes}, or 0 for all"
        )
