"""A run, with all it has learned, opened to be scored or looked at; and a phase taken back."""

from collections.abc import Container, Mapping, Sequence
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
    LearnedPhase,
    finish_removal,
    learned_phases,
    recorded_data_dir,
    recorded_model_name,
    remove_export,
    remove_phase,
)
from mnemonics_tf.run.resume import read_settings
from mnemonics_tf.serving.export import export_folder
from mnemonics_tf.settings import RunSettings, Settings, by_name, of_any_version


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
    learned = learned_phases(directory)
    theirs = _code_of_the_run(wanted, learned, named)
    refuse_unnamed_code(wanted, theirs, doing)
    if learned:
        history = read_history(directory, run)
        return reopened(history, find_base(history, run.data_dir, named), named)
    source = open_source(wanted)
    remedy = "pass the data that it learned from as --data_dir"
    refuse_other_classes(directory, source.class_names, remedy)
    opened = OpenedRun(wanted, source, tf.distribute.get_strategy())
    # Other test images will do, if it is said; training images play no part.
    refuse_other_data(directory, opened.class_facts(), remedy, parts=(), may_differ=("test",))
    return opened


def _code_of_the_run(
    wanted: Settings, learned: Sequence[LearnedPhase], named: Mapping[str, str]
) -> Container[str]:
    """Returns the settings whose code a run may import; refuses what none of its phases had.

    Of several data sets that code reads one can be named; the others' images are not found then.
    """
    noted = [by_name(wanted.results_settings())]
    noted += [{**of_any_version(p.settings), "dataset": p.dataset} for p in learned]
    for name, value in named.items():
        known = dict.fromkeys(str(settings.get(name)) for settings in noted)
        if value not in known:
            run = " and ".join(flags_of({name: one}) for one in known)
            raise UserError(f"{flags_of({name: value})}: {wanted.run.run_dir} was run with {run}")
    return {n for n, value in named.items() if n == "dataset" or noted[0][n] == value}


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


def undo(run: RunSettings, named: Mapping[str, str] | None = None) -> None:
    """Takes the last learned phase of a run back, finished or not.

    What the run keeps is written first and the phase removed last: started again after a kill, it
    takes back the same phase.

    Args:
        run: names the run directory, which the caller has locked.
        named: settings of the run that name code, which may be imported.

    Raises:
        UserError: if the run has learned no further phase, or would import code that was not named.
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
    noted = recorded_model_name(directory)
    folder = export_folder(directory.export, dataset, run.model_name, noted)
    if not history.unfinished:
        theirs = _code_of_the_run(history.settings, history.learned, named or {})
        refuse_unnamed_code(history.settings, theirs, "taking a phase back")
        write_results_of(history.without_last(), Summaries(directory.tensorboard), replicas=1)
    remove_export(folder / str(phase.index + 1))
    remove_phase(directory, phase.index)
    LOGGER.info("phase %d, which learned %s, is taken back", phase.index, few(phase.classes))
