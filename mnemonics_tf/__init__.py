"""Mnemonics training for class-incremental learning on TensorFlow and Keras 3."""

import os

__version__ = "0.1.0"

# TensorFlow takes oneDNN's convolutions by itself only where a processor has AVX512-VNNI or newer.
# Without them (AVX2) a training step takes 1.8 times as long. TensorFlow reads this as it is
# imported, after this file; whoever sets the variable decides.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
