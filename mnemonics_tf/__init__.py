"""Mnemonics training for class-incremental learning on TensorFlow and Keras 3."""

import os
import pathlib

__version__ = "0.1.0"

# TensorFlow takes oneDNN's convolutions by itself only where a processor has AVX512-VNNI or newer.
# Without them (AVX2) a training step takes 1.8 times as long. TensorFlow reads this as it is
# imported, after this file; whoever sets the variable decides.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# Its C++ parts greet every start with some ten lines, errors about a missing CUDA among them. Where
# there is no NVIDIA device none of them helps; where there is one, its errors stay.
_HAS_GPU = any(pathlib.Path("/dev").glob("nvidia[0-9]*"))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if _HAS_GPU else "3")
