"""Exemplars for any Keras classifier, without a run, phases or flags."""
