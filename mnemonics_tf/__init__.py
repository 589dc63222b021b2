"""Mnemonics training for class-incremental learning on TensorFlow and Keras 3."""

__version__ = "0.1.0"
