"""The meta level's optimisers: gradient descent on pixels, some images at a time (Eq. 9, 10)."""

import numpy as np

from mnemonics_tf.settings import OuterSettings

#: grey levels between black and white
_LEVELS = 255.0

_ADAM_DECAY = (0.9, 0.999)
_ADAM_EPSILON = 1e-12  # meta-gradients of single pixels are near 1e-6, below Adam's usual 1e-7


def learning_rate_at(settings: OuterSettings, step: int) -> float:
    """Returns the learning rate of outer step `step` (from 0).

    It is halved at even distances (the paper: 4 times, every 10 of 50 epochs).
    """
    halvings, steps = settings.outer_halvings, max(settings.outer_steps, 1)
    return settings.outer_learning_rate * 0.5 ** (step * (halvings + 1) // steps)


class PixelOptimizer:
    """Moves the rows that had a gradient, and keeps the moments of the others as they are.

    An outer step sees only some of the exemplars; a dense optimiser would go on moving the others
    by their old moments.

    After every step images are projected: onto valid pixels, and then towards where they began
    until they are within `max_shift` of it. The bound is this project's addition: the paper's
    exemplars move freely, and those that move far lose what the next phases need.

    Args:
        settings: of the meta level.
        start: all exemplars as they begin, `[n, h, w, c]`; kept, not copied.
        lowest: smallest valid value of each channel, `[c]`: black.
        highest: largest valid value of each channel, `[c]`: white, 255 grey levels above.
    """

    def __init__(
        self,
        settings: OuterSettings,
        start: np.ndarray,
        lowest: np.ndarray,
        highest: np.ndarray,
    ):
        self._settings = settings
        self._start = start
        self._lowest, self._highest = lowest, highest
        shape = start.shape
        self._first = np.zeros(shape, np.float32)
        self._second = np.zeros(shape if settings.outer_optimizer == "adam" else (0,), np.float32)
        self._counts = np.zeros(shape[0], np.int64)

    def apply(self, images: np.ndarray, rows: np.ndarray, gradient: np.ndarray, step: int) -> None:
        """Moves `images[rows]` against the gradient and projects them, in place.

        Args:
            images: all exemplars, normalised, `[n, h, w, c]`.
            rows: which of them have a gradient, `[m]`, each once.
            gradient: `[m, h, w, c]`.
            step: the outer step, for the learning rate.
        """
        self._counts[rows] += 1
        rate = learning_rate_at(self._settings, step)
        direction = self._adam(rows, gradient) if self._second.size else self._sgd(rows, gradient)
        moved = np.clip(images[rows] - rate * direction, self._lowest, self._highest)
        images[rows] = self._within_reach(moved, self._start[rows])

    def _within_reach(self, moved: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Returns images drawn back to where the bound on their shift allows them to be.

        The way back to a valid image passes valid ones.
        """
        bound = self._settings.max_shift
        if bound >= _LEVELS:
            return moved
        shift = (moved - start) * (_LEVELS / (self._highest - self._lowest))
        distance = np.sqrt(np.square(shift).mean(axis=(1, 2, 3), keepdims=True))
        return start + (moved - start) * np.minimum(1, bound / np.maximum(distance, 1e-12))

    def _sgd(self, rows, gradient):
        self._first[rows] = self._settings.outer_momentum * self._first[rows] + gradient
        return self._first[rows]

    def _adam(self, rows, gradient):
        beta1, beta2 = _ADAM_DECAY
        self._first[rows] = beta1 * self._first[rows] + (1 - beta1) * gradient
        self._second[rows] = beta2 * self._second[rows] + (1 - beta2) * np.square(gradient)
        count = self._counts[rows].reshape(-1, *[1] * (gradient.ndim - 1))
        mean = self._first[rows] / (1 - beta1**count)
        square = self._second[rows] / (1 - beta2**count)
        return mean / (np.sqrt(square) + _ADAM_EPSILON)

    def state(self) -> dict[str, np.ndarray]:
        """Returns moments and counts, for a checkpoint."""
        return {"first": self._first, "second": self._second, "counts": self._counts}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Takes over what `state` returned: the arrays change with every step."""
        self._first, self._second = state["first"], state["second"]
        self._counts = state["counts"]
