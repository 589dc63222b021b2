"""Trains a class-incremental run: python -m mnemonics_tf.train --flagfile=configs/cifar100.flags.

Without flags it runs the demo: scikit-learn's handwritten digits, 5 classes and then 5 phases of 1.
The same command goes on with a run that was stopped.
"""

import sys

import tensorflow as tf
from absl import app, flags, logging

from mnemonics_tf import results, settings
from mnemonics_tf.data.sources import SOURCES, create
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.exemplar_level import EXEMPLARS
from mnemonics_tf.exemplars.metagradient import ESTIMATORS
from mnemonics_tf.exemplars.pixel_optimizer import OUTER_OPTIMIZERS
from mnemonics_tf.exemplars.selection import SELECTIONS
from mnemonics_tf.exemplars.temporary_model import STARTS
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.interruption import EXIT_STATUS, RunInterruptedError
from mnemonics_tf.methods import METHODS
from mnemonics_tf.models.incremental import SCOPES
from mnemonics_tf.models.resnet import BACKBONES
from mnemonics_tf.progress import LOGGER, log_to
from mnemonics_tf.run_directory import RunDirectory

settings.define_flags(
    {
        "dataset": list(SOURCES),
        "method": list(METHODS),
        "exemplars": list(EXEMPLARS),
        "mnemonics_start": list(SELECTIONS),
        "inner_scope": list(SCOPES),
        "inner_start": list(STARTS),
        "meta_gradient": list(ESTIMATORS),
        "outer_optimizer": list(OUTER_OPTIMIZERS),
        "backbone": list(BACKBONES),
    }
)
flags.adopt_module_key_flags(settings)


def main(arguments: list[str]) -> int:
    """Runs the experiment that the flags describe and prints its table."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # TensorFlow reports its own inner life at INFO
    try:
        if len(arguments) > 1:
            raise UserError(
                f"unexpected argument {arguments[1]!r}: settings are passed as --name=value"
            )
        return train(settings.settings_from_flags(flags.FLAGS))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def train(wanted: settings.Settings) -> int:
    """Runs one experiment; returns the exit status."""
    source = create(wanted.protocol.dataset, wanted.run.data_dir, wanted.run.download)
    experiment = Experiment(wanted, source, tf.distribute.get_strategy())
    directory = RunDirectory(wanted.run.run_dir)
    with directory.locked():
        log_to(directory.log)
        experiment.stop.listen()
        try:
            contents = experiment.run()
        except RunInterruptedError:
            LOGGER.info("stopped on request; the same command goes on from here")
            return EXIT_STATUS
    LOGGER.info("\n%s\n", results.table(contents))
    LOGGER.info("results:     %s", directory.results)
    LOGGER.info("exports:     %s", directory.export)
    LOGGER.info("TensorBoard: tensorboard --logdir %s", directory.tensorboard)
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=settings.parse_flags)
