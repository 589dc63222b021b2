"""Which images become exemplars: random choice and herding."""

from collections.abc import Callable

import numpy as np

from mnemonics_tf.norms import unit_length


def select_random(features: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Returns `count` indices drawn without replacement, in random order.

    Args:
        features: of one class, `[n, d]`; only n matters.
        count: how many, at most n.
        generator: source of randomness.
    """
    return generator.permutation(len(features))[:count]


def select_by_herding(
    features: np.ndarray, count: int, generator: np.random.Generator | None = None
) -> np.ndarray:
    """Returns `count` indices chosen by herding, best first.

    p_k = argmin_x || mu - (phi(x) + sum_{j<k} phi(p_j)) / k ||, phi L2-normalised and mu
    their mean; an image is chosen once.

    Source: Welling, Herding Dynamical Weights to Learn, ICML 2009; Rebuffi et al., iCaRL, CVPR
    2017, Algorithm 4.

    Args:
        features: of one class, `[n, d]`.
        count: how many, at most n.
        generator: not used; herding has no randomness.
    """
    del generator
    phi = unit_length(features.astype(np.float64))
    mean = phi.mean(axis=0)
    chosen: list[int] = []
    total = np.zeros_like(mean)
    free = np.ones(len(phi), bool)
    for k in range(1, count + 1):
        distance = np.linalg.norm(mean - (phi + total) / k, axis=1)
        best = int(np.argmin(np.where(free, distance, np.inf)))
        chosen.append(best)
        free[best] = False
        total += phi[best]
    return np.array(chosen, np.int64)


#: those that look at features; the others see only how many images there are
NEED_FEATURES = frozenset({"herding"})

#: name to `(features [n, d], count, generator) -> indices, best first`
SELECTIONS: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "random": select_random,
    "herding": select_by_herding,
}
