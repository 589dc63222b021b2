"""The model-level loop, its optimiser and its checkpoints."""
