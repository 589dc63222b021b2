"""A run on disk, and what goes on with it."""
