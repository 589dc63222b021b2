"""Set-up, benchmarks and comparisons, run as `python -m tools.NAME` from the repository's root."""

import mnemonics_tf  # noqa: F401 (before TensorFlow: it chooses TensorFlow's kernels, as in runs)
