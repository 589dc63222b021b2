"""Exports for model servers."""
