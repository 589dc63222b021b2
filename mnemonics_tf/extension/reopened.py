"""A run that has learned further phases, opened to be scored or looked at; and taking one back."""

from collections.abc import Container

import tensorflow as tf

from mnemonics_tf.data.source import DataSource
from mnemonics_tf.errors import UserError
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.extension.images import find_learned, join, preprocessing_of_run
from mnemonics_tf.extension.wanted import few
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.monitoring.summaries import Summaries
from mnemonics_tf.phases.write_results import write_results
from mnemonics_tf.registry import refuse_unnamed_code
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.history import History, read_history
from mnemonics_tf.run.learned import remove_export, remove_phase
from mnemonics_tf.serving.export import export_folder
from mnemonics_tf.settings import RunSettings


def reopened(history: History, base: DataSource | None, named: Container[str] = ()) -> Experiment:
    """Returns a run that has learned further phases, with what is found of its images.

    Args:
        history: of the run.
        base: the data that it began with, if they were found.
        named: settings whose code may be imported.
    """
    preprocessing = preprocessing_of_run(history, base)
    nothing = [0] * len(history.known)
    source = join(history, base, find_learned(history, named), preprocessing, nothing)
    strategy = tf.distribute.get_strategy()
    return Experiment(history.settings, source, strategy, history.protocol())


def undo(run: RunSettings, named: Container[str] = ()) -> None:
    """Takes the last learned phase of a run back, finished or not.

    What the run keeps is written first and the phase removed last: started again after a kill, it
    takes back the same phase.

    Args:
        run: names the run directory, which the caller has locked.
        named: settings whose code may be imported.

    Raises:
        UserError: if the run has learned no further phase.
    """
    directory = RunDirectory(run.run_dir)
    history = read_history(directory, run)
    phase = history.unfinished or (history.learned[-1] if history.learned else None)
    if phase is None:
        raise UserError(f"{directory.root} has learned no further phase that could be taken back")
    if not history.unfinished:
        refuse_unnamed_code(history.settings, named, "taking a phase back")
        before = history.without_last()
        protocol = before.protocol()
        write_results(
            directory,
            before.settings,
            protocol,
            protocol.phases,
            before.known,
            replicas=1,
            summaries=Summaries(directory.tensorboard),
        )
    dataset = history.settings.protocol.dataset
    folder = export_folder(directory.export, dataset, run.model_name)
    remove_export(folder / str(phase.index + 1))
    remove_phase(directory, phase.index)
    LOGGER.info("phase %d, which learned %s, is taken back", phase.index, few(phase.classes))
