"""What a command that trains says at its end."""

import shlex
from typing import Any

from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.run import results
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.serving.loading import holds_pattern


def tell_outcome(directory: RunDirectory, contents: dict[str, Any]) -> None:
    """Says what came out of a run, and where it is.

    Args:
        directory: of the run.
        contents: what its results.json holds.
    """
    LOGGER.info("\n%s\n", results.table(contents))
    LOGGER.info("results:     %s", directory.results)
    LOGGER.info("exports:     %s", directory.export)
    if holds_pattern(directory.export):
        LOGGER.warning(
            "TensorFlow takes the path of the exports for a pattern ([ or \\ in it), and can load "
            "them from another place only: copy or mount them there to serve them"
        )
    LOGGER.info("TensorBoard: tensorboard --logdir %s", shlex.quote(str(directory.tensorboard)))
