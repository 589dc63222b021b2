"""Trains a class-incremental run: python -m mnemonics_tf.train --flagfile=configs/cifar100.flags.

Without flags it learns scikit-learn's handwritten digits: 5 classes, then 5 phases of 1.
The same command goes on with a run that was stopped.
"""

import mnemonics_tf.startup  # isort: skip  # noqa: F401 (before TensorFlow)

import tensorflow as tf
from absl import flags

from mnemonics_tf import devices
from mnemonics_tf import flags as settings_flags
from mnemonics_tf.data.sources import open_source
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.monitoring.progress import LOGGER, log_before_run
from mnemonics_tf.outcome import tell_outcome
from mnemonics_tf.phases.asked_for import settle
from mnemonics_tf.program import program, refuse_arguments, start
from mnemonics_tf.run.files import check_path
from mnemonics_tf.run.interruption import EXIT_STATUS, RunInterruptedError
from mnemonics_tf.run.workers import own_directory
from mnemonics_tf.settings import Settings

settings_flags.define_flags()
flags.adopt_module_key_flags(settings_flags)


@program(
    stopped="stopped at once; the same command goes on from the last checkpoint",
    # A run has one set of settings, which its phases so far were trained with.
    diverged=", and pass another --run_dir with it",
)
def main(arguments: list[str]) -> int:
    """Runs the experiment that the flags describe and prints its table."""
    refuse_arguments(arguments)
    return train(settings_flags.settings_from_flags(flags.FLAGS))


def train(wanted: Settings) -> int:
    """Runs one experiment; returns the exit status.

    Of several workers only the chief writes to the run directory and reports; the others have
    private directories for as long as they run.
    """
    strategy = devices.create_strategy(wanted.run.strategy)
    with own_directory(strategy, wanted.run.run_dir) as place:
        return _run(wanted.changed(run_dir=place), strategy)


def _run(wanted: Settings, strategy: tf.distribute.Strategy) -> int:
    log_before_run(console=devices.is_chief(strategy))
    for option in ("run_dir", "data_dir", "phase0_from", "backbone_weights"):
        check_path(f"--{option}", getattr(wanted.run, option))
    wanted = settle(wanted)  # before the data is read, which may take long
    if wanted.run.data_dir and wanted.protocol.dataset == "digits":
        LOGGER.warning(
            "--data_dir is not read: scikit-learn brings the digits; for what lies there pass its "
            "--dataset (folder, npz, ...)"
        )
    source = open_source(wanted)
    experiment = Experiment(wanted, source, strategy)
    with experiment.session(console=devices.is_chief(strategy)):
        try:
            contents = experiment.run()
        except RunInterruptedError:
            LOGGER.info("stopped on request; the same command goes on from here")
            return EXIT_STATUS
        tell_outcome(experiment.directory, contents)
    return 0


def command() -> None:
    """The console command `mnemonics-train`."""
    start(main)


if __name__ == "__main__":
    command()
