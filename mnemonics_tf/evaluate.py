"""Scores phases of a run again: python -m mnemonics_tf.evaluate --run_dir=RUN [--phase=i].

From the phase's model and exemplars, or with --from_export from its SavedModel alone. Prints the
accuracies of both heads beside the recorded ones; exit status 1 where they differ. Code of one's
own, package.module:Name, runs where its flag is passed as the run had it.
"""

import mnemonics_tf.startup  # isort: skip  # noqa: F401 (before TensorFlow)
import pathlib
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from absl import flags

from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.data.sources import open_source
from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluation.evaluator import Predictions
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.extension.images import find_base
from mnemonics_tf.extension.reopened import reopened
from mnemonics_tf.program import program, refuse_arguments, start
from mnemonics_tf.registry import flags_of, looked_up, refuse_unnamed_code
from mnemonics_tf.run.data_facts import refuse_other_classes, refuse_other_data
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import check_path
from mnemonics_tf.run.history import read_history
from mnemonics_tf.run.learned import learned_phases, recorded_data_dir
from mnemonics_tf.run.resume import read_record, read_settings
from mnemonics_tf.serving.loading import Export
from mnemonics_tf.settings import RunSettings, Settings, by_name


def define_flags() -> None:
    """Defines this program's flags; a function, for `train` has flags of the same names."""
    flags.DEFINE_string("run_dir", None, "Directory of the run.", required=True)
    flags.DEFINE_string(
        "data_dir",
        "",
        "Directory (or archive) that holds the data; empty: where it was in training.",
    )
    flags.DEFINE_integer("phase", -1, "Phase to score; -1: all that are done.")
    flags.DEFINE_boolean(
        "from_export",
        False,
        "Score the SavedModel of the phase. This runs what is in it: for runs you trust.",
    )
    for name in looked_up():
        help_text = "The run's package.module:Name, which then is imported: for runs you trust."
        flags.DEFINE_string(name, None, help_text)


@program()
def main(arguments: list[str]) -> int:
    """Scores the phases that the flags name."""
    refuse_arguments(arguments)
    values = flags.FLAGS
    own = {name: str(values[name].value) for name in looked_up() if values[name].present}
    return evaluate(values.run_dir, values.data_dir, values.phase, values.from_export, own)


def evaluate(
    run_dir: str,
    data_dir: str,
    phase_index: int,
    from_export: bool,
    own: Mapping[str, str] | None = None,
) -> int:
    """Prints accuracies, computed now and recorded; returns 1 if any differ, else 0.

    Args:
        run_dir: of the run.
        data_dir: where the data is; empty: where it was when the run learned from it.
        phase_index: which phase; -1 for all that are done.
        from_export: use the SavedModel alone.
        own: settings of the run that name code, which may be imported.

    Raises:
        UserError: if there is no such run or phase, the data has other classes, or the run would
            import code that was not named.
    """
    for option, path in (("--run_dir", run_dir), ("--data_dir", data_dir)):
        check_path(option, path)
    directory = RunDirectory(run_dir)
    if not directory.settings.exists():
        raise UserError(f"--run_dir={run_dir} holds no run: settings.json is missing")
    run = RunSettings(run_dir=run_dir, data_dir=data_dir or recorded_data_dir(directory))
    wanted = Settings.from_results_settings(read_settings(directory), run)
    _refuse_unnamed_code(wanted, own or {})
    if learned_phases(directory):
        experiment = _extended(directory, run, own or {})
    else:
        experiment = _opened(directory, wanted)
    phases = experiment.protocol.phases
    done = [phase for phase in phases if directory.record(phase.index).exists()]
    chosen = [phase for phase in done if phase_index in (-1, phase.index)]
    if not chosen:
        raise UserError(
            f"--phase={phase_index} is not done in {run_dir}; done: "
            f"{', '.join(str(phase.index) for phase in done) or 'none'}"
        )
    differs = False
    for phase in chosen:
        if from_export:
            predictions = _predict_by_export(experiment, phase)
        else:
            predictions = experiment.predict_again(phase)
        recorded = read_record(directory, phase)["heads"]
        predictions = _compared(predictions, recorded, directory.record(phase.index))
        for head, figures in predictions.summary(experiment.groups(phase)).items():
            then = recorded[head]
            # Old classes may not have been tested; new ones always are.
            name = "accuracy" if then["accuracy"] is not None else "group_accuracies"
            pair = [np.ravel(values[name])[-1] for values in (figures, then)]
            differs |= pair[0] != pair[1]
            of = "" if name == "accuracy" else ", of the new classes alone"
            print(f"phase {phase.index} {head:>10}: {pair[0]:.4%} now, {pair[1]:.4%} recorded{of}")
    return int(differs)


def _opened(directory: RunDirectory, wanted: Settings) -> Experiment:
    """Returns a run with its data, which need not have the same test images."""
    source = open_source(wanted)
    remedy = "pass the data that it learned from as --data_dir"
    refuse_other_classes(directory, source.class_names, remedy)
    experiment = Experiment(wanted, source, tf.distribute.get_strategy())
    # Other test images may be scored, if it is said; training images play no part.
    refuse_other_data(directory, experiment.class_facts(), remedy, parts=(), may_differ=("test",))
    return experiment


def _extended(directory: RunDirectory, run: RunSettings, own: Mapping[str, str]) -> Experiment:
    """Returns a run that has learned further phases, with what is found of its test images."""
    history = read_history(directory, run)
    return reopened(history, find_base(history, run.data_dir, own), own)


def _compared(
    predictions: Predictions, heads: Mapping[str, dict], path: pathlib.Path
) -> Predictions:
    """Returns predictions of the images of those classes that were tested when it was recorded.

    Raises:
        UserError: if the images of some of them are not found.
    """
    matrix = next(iter(heads.values())).get("confusion_matrix")
    if matrix is None:  # an early version tested all
        return predictions
    tested = np.flatnonzero(np.sum(matrix, axis=1))
    missing = np.setdiff1d(tested, predictions.labels)
    if len(missing):
        raise UserError(
            f"{path} was made with test images of {len(tested)} classes, of which {len(missing)} "
            "are not found: put them back where they were, or pass --data_dir"
        )
    return predictions.of(tested.tolist())


def _refuse_unnamed_code(wanted: Settings, named: Mapping[str, str]) -> None:
    """Refuses to import what a run names, unless the user names it too: it may be a stranger's."""
    settings = by_name(wanted.results_settings())
    other = {name: value for name, value in named.items() if settings[name] != value}
    if other:
        run = flags_of({name: settings[name] for name in other})
        raise UserError(f"{flags_of(other)}: {wanted.run.run_dir} was run with {run}")
    refuse_unnamed_code(wanted, named, "scoring it")


def _predict_by_export(experiment: Experiment, phase: Phase) -> Predictions:
    test_set = experiment.data.test_set(phase)
    export = Export(experiment.exports.path(phase), test_set.image_shape)
    batch_size = experiment.settings.training.evaluation_batch_size
    batches = [
        test_set.subset(np.arange(start, min(start + batch_size, len(test_set)))).load_all()
        for start in range(0, len(test_set), batch_size)
    ]
    heads = {}
    for head, signature in (("classifier", "serving_default"), ("nme", "nme")):
        ids = export.class_ids(signature, batches)
        unknown = np.setdiff1d(ids, experiment.protocol.original_ids(phase.seen_classes))
        if len(unknown):
            raise UserError(
                f"the export {experiment.exports.path(phase)} is not of this phase: it knows "
                f"classes of the ids {', '.join(map(str, unknown[:5]))}; put the right one back, "
                "or score the phase without --from_export"
            )
        heads[head] = experiment.protocol.labels_of(ids)
    return Predictions(test_set.labels, heads)


def command() -> None:
    """The console command `mnemonics-evaluate`."""
    define_flags()
    start(main)


if __name__ == "__main__":
    command()
