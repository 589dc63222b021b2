"""Backbones, growing classifiers and weight transfer."""
