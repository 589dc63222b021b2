"""A run, with all it has learned, opened to be scored or looked at; and a phase taken back."""

from collections.abc import Container, Mapping
from typing import Any

import tensorflow as tf

from mnemonics_tf.data.source import DataSource
from mnemonics_tf.data.sources import open_source
from mnemonics_tf.errors import UserError, few
from mnemonics_tf.extension.images import find_base, find_learned, join, preprocessing_of_run
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.monitoring.summaries import Summaries
from mnemonics_tf.opened_run import OpenedRun
from mnemonics_tf.phases.write_results import write_results_of
from mnemonics_tf.registry import flags_of, refuse_unnamed_code
from mnemonics_tf.run.data_facts import refuse_other_classes, refuse_other_data
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import check_path
from mnemonics_tf.run.history import History, read_history
from mnemonics_tf.run.learned import (
    finish_removal,
    learned_phases,
    recorded_data_dir,
    remove_export,
    remove_phase,
)
from mnemonics_tf.run.resume import read_settings
from mnemonics_tf.serving.export import export_folder
from mnemonics_tf.settings import RunSettings, Settings, by_name


def open_run(run_dir: str, data_dir: str, named: Mapping[str, str], doing: str) -> OpenedRun:
    """Returns a run with its data, which need not have the same test images, and all its phases.

    Args:
        run_dir: of the run.
        data_dir: where the data is; empty: where it was when the run learned from it.
        named: settings of the run that name code, which may be imported.
        doing: what the run is opened for, for messages.

    Raises:
        UserError: if there is no such run, the data has other classes, or the run would import code
            that was not named.
    """
    for option, path in (("--run_dir", run_dir), ("--data_dir", data_dir)):
        check_path(option, path)
    directory = RunDirectory(run_dir)
    directory.require()
    run = RunSettings(run_dir=run_dir, data_dir=data_dir or recorded_data_dir(directory))
    wanted = Settings.from_results_settings(read_settings(directory), run)
    _refuse_other_code(wanted, named)
    refuse_unnamed_code(wanted, named, doing)
    if learned_phases(directory):
        history = read_history(directory, run)
        return reopened(history, find_base(history, run.data_dir, named), named)
    source = open_source(wanted)
    remedy = "pass the data that it learned from as --data_dir"
    refuse_other_classes(directory, source.class_names, remedy)
    opened = OpenedRun(wanted, source, tf.distribute.get_strategy())
    # Other test images will do, if it is said; training images play no part.
    refuse_other_data(directory, opened.class_facts(), remedy, parts=(), may_differ=("test",))
    return opened


def _refuse_other_code(wanted: Settings, named: Mapping[str, str]) -> None:
    """Refuses code that is named and is not the run's."""
    settings = by_name(wanted.results_settings())
    other = {name: value for name, value in named.items() if settings[name] != value}
    if other:
        run = flags_of({name: settings[name] for name in other})
        raise UserError(f"{flags_of(other)}: {wanted.run.run_dir} was run with {run}")


def reopened(
    history: History, base: DataSource | None, named: Mapping[str, Any] | None = None
) -> OpenedRun:
    """Returns a run that has learned further phases, with what is found of its images.

    Args:
        history: of the run.
        base: the data that it began with, if they were found.
        named: settings whose code may be imported, as they were passed.
    """
    preprocessing = preprocessing_of_run(history, base)
    nothing = [0] * len(history.known)
    source = join(history, base, find_learned(history, named or {}), preprocessing, nothing)
    strategy = tf.distribute.get_strategy()
    return OpenedRun(history.settings, source, strategy, history.protocol())


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
    gone = finish_removal(directory)
    if gone is not None:
        LOGGER.info(
            "phase %d had been taken back by a call that was stopped; what it left is removed, and "
            "all else stays: call again to take one more back",
            gone,
        )
        return
    history = read_history(directory, run)
    phase = history.unfinished or (history.learned[-1] if history.learned else None)
    if phase is None:
        raise UserError(f"{directory.root} has learned no further phase that could be taken back")
    dataset = history.settings.protocol.dataset
    folder = export_folder(directory.export, dataset, run.model_name)
    if not history.unfinished:
        refuse_unnamed_code(history.settings, named, "taking a phase back")
        write_results_of(history.without_last(), Summaries(directory.tensorboard), replicas=1)
    remove_export(folder / str(phase.index + 1))
    remove_phase(directory, phase.index)
    LOGGER.info("phase %d, which learned %s, is taken back", phase.index, few(phase.classes))
