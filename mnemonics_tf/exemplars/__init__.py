"""Exemplar memory, selection and learning."""
