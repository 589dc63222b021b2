"""Vectors of unit length: what herding, the nearest mean and the probe compare features by."""

import numpy as np


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors divided by their L2 norms along the last axis; zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
