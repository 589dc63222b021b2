"""Mnemonics training for class-incremental learning on TensorFlow and Keras 3.

The public names, which docs/python.md shows at work:

    learn_exemplars                   exemplars for any Keras classifier
    Experiment, Settings, open_source a class-incremental run
    bilevel                           the meta-gradient, for losses of one's own
    UserError                         what is raised where something passed does not fit

TensorFlow is imported when one of them is asked for, not before.
"""

import importlib
import os
import pathlib
from typing import Any

__version__ = "0.1.0"

__all__ = ["Experiment", "Settings", "UserError", "bilevel", "learn_exemplars", "open_source"]

# TensorFlow takes oneDNN's convolutions by itself only where a processor has AVX512-VNNI or newer.
# Without them (AVX2) a training step takes 1.8 times as long. TensorFlow reads this as it is
# imported, after this file; whoever sets the variable decides.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# Its C++ parts greet every start with some ten lines, errors about a missing CUDA among them. Where
# there is no NVIDIA device none of them helps; where there is one, its errors stay.
_HAS_GPU = any(pathlib.Path("/dev").glob("nvidia[0-9]*"))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if _HAS_GPU else "3")

#: where the public names are; __init__.pyi says the same to type checkers
_MODULES = {
    "Experiment": "mnemonics_tf.experiment",
    "Settings": "mnemonics_tf.settings",
    "UserError": "mnemonics_tf.errors",
    "learn_exemplars": "mnemonics_tf.own_classifier.exemplars",
    "open_source": "mnemonics_tf.data.sources",
}


def __getattr__(name: str) -> Any:
    if name == "bilevel":
        return importlib.import_module("mnemonics_tf.bilevel")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
