"""Metrics and the evaluation of both heads."""
