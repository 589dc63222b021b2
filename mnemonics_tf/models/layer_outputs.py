"""How much the outputs of a model's layers take of memory."""

import itertools
from typing import Any

import keras
import numpy as np


def layer_bytes(model: keras.Model) -> int:
    """Returns the bytes that the outputs of all layers have for one image, in float32.

    Args:
        model: functional or Sequential; layers of models inside it count too. Where it has no
            graph of layers, as a subclassed one, or their sizes are open, they count nothing.
    """
    return 4 * _layer_outputs(model)


def _layer_outputs(model: keras.Model) -> int:
    graph: Any = getattr(model, "_functional", None) or model  # that of a Sequential model
    by_depth = getattr(graph, "_nodes_by_depth", {})  # a subclassed model has no graph
    total = 0
    for node in itertools.chain.from_iterable(by_depth.values()):  # one for each call of a layer
        if getattr(node.operation, "layers", None):
            total += _layer_outputs(node.operation)
        else:
            shapes = [output.shape[1:] for output in node.outputs]
            total += sum(int(np.prod(shape)) for shape in shapes if None not in shape)
    return total
