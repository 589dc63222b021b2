"""Scores phases of a run again: python -m mnemonics_tf.evaluate --run_dir=RUN [--phase=i].

From the phase's model and exemplars, or with --from_export from its SavedModel alone. Prints the
accuracies of both heads beside the recorded ones; exit status 1 where they differ. Code of one's
own, package.module:Name, runs where its flag is passed as the run had it.
"""

import mnemonics_tf.startup  # isort: skip  # noqa: F401 (before TensorFlow)
import functools
from collections.abc import Mapping

import numpy as np
from absl import flags

from mnemonics_tf import flags as settings_flags
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.errors import UserError, printable
from mnemonics_tf.evaluation.evaluator import Predictions
from mnemonics_tf.extension.reopened import open_run
from mnemonics_tf.opened_run import OpenedRun
from mnemonics_tf.program import program, refuse_arguments, start
from mnemonics_tf.registry import flags_of, is_own_source
from mnemonics_tf.run.learned import read_learned
from mnemonics_tf.run.resume import read_record
from mnemonics_tf.serving.loading import Export
from mnemonics_tf.terminal import passing


def define_flags() -> None:
    """Defines this program's flags; a function, for `train` has flags of the same names."""
    settings_flags.define_flags_of_a_run("score")
    flags.adopt_module_key_flags(settings_flags)  # so that --help shows them
    flags.DEFINE_boolean(
        "from_export",
        False,
        "Score the SavedModel of the phase. This runs what is in it: for runs you trust.",
    )


@program()
def main(arguments: list[str]) -> int:
    """Scores the phases that the flags name."""
    refuse_arguments(arguments)
    values = flags.FLAGS
    own = settings_flags.named_code(values)
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
    own = own or {}
    passing("reading the run and its data ...")
    opened = open_run(run_dir, data_dir, own, "scoring it")
    passing("")
    directory = opened.directory
    differs = False
    for phase in opened.phases_done(phase_index):
        recorded = read_record(directory, phase)["heads"]
        labels = opened.data.test_set(phase).labels
        tested = _tested(labels, recorded)
        missing = np.setdiff1d(tested, labels)
        if len(missing):
            raise UserError(
                f"{directory.record(phase.index)} was made with test images of {len(tested)} "
                f"classes, of which {len(missing)} are not found: {_ways(opened, missing, own)}"
            )
        passing(f"scoring phase {phase.index} ...")
        by_export = functools.partial(_predict_by_export, opened)
        predict = by_export if from_export else opened.predict_again
        predictions = predict(phase).of(tested)
        passing("")
        for head, figures in predictions.summary(opened.groups(phase)).items():
            then = recorded[head]
            # Old classes may not have been tested; new ones always are.
            name = "accuracy" if then["accuracy"] is not None else "group_accuracies"
            pair = [np.ravel(values[name])[-1] for values in (figures, then)]
            differs |= pair[0] != pair[1]
            of = "" if name == "accuracy" else ", of the new classes alone"
            print(f"phase {phase.index} {head:>10}: {pair[0]:.4%} now, {pair[1]:.4%} recorded{of}")
    return int(differs)


def _tested(labels: np.ndarray, heads: Mapping[str, dict]) -> list[int]:
    """Returns the classes that were tested when a phase was recorded.

    Args:
        labels: of the test images that there are now.
        heads: as recorded.
    """
    matrix = next(iter(heads.values())).get("confusion_matrix")
    if matrix is None:  # an early version tested all
        return np.unique(labels).tolist()
    return np.flatnonzero(np.sum(matrix, axis=1)).tolist()


def _ways(opened: OpenedRun, missing: np.ndarray, own: Mapping[str, str]) -> str:
    """Returns how the test images of classes are found, by where the phases had them."""
    ways: dict[str, None] = {}
    for phase in opened.protocol.phases:
        if not np.isin(missing, phase.new_classes).any():
            continue
        learned = read_learned(opened.directory, phase.index)
        dataset = learned.dataset if learned else opened.settings.protocol.dataset
        if is_own_source(dataset) and (named := own.get("dataset")) != dataset:
            way = f"pass {flags_of({'dataset': dataset})}, if you trust it"
            if named and is_own_source(named):  # as another phase has it
                way = (
                    f"those of phase {phase.index} are read by {flags_of({'dataset': dataset})}, "
                    "and one call reads by one source of one's own: score another --phase"
                )
        elif learned and not learned.data_dir:
            way = f"{dataset} gives other test images of phase {phase.index} than it did then"
        elif learned:
            place = printable(learned.data_dir)
            way = f"put those of phase {phase.index} back where they were, {place}"
        else:
            way = "put those that the run began with back where they were, or pass --data_dir"
        ways[way] = None
    return "; ".join(ways)


def _predict_by_export(opened: OpenedRun, phase: Phase) -> Predictions:
    test_set = opened.data.test_set(phase)
    export = Export(opened.exports.path(phase), test_set.image_shape)
    batch_size = opened.settings.training.evaluation_batch_size
    signatures = {"classifier": "serving_default", "nme": "nme"}
    answers: dict[str, list[np.ndarray]] = {head: [] for head in signatures}
    for first in range(0, len(test_set), batch_size):
        rows = np.arange(first, min(first + batch_size, len(test_set)))
        batch = test_set.subset(rows).load_all()
        for head, signature in signatures.items():
            answers[head].append(export.class_ids(signature, batch))
    heads = {}
    for head, found in answers.items():
        ids = np.concatenate(found)
        unknown = np.setdiff1d(ids, opened.protocol.original_ids(phase.seen_classes))
        if len(unknown):
            raise UserError(
                f"the export {opened.exports.path(phase)} is not of this phase: it knows "
                f"classes of the ids {', '.join(map(str, unknown[:5]))}; put the right one back, "
                "or score the phase without --from_export"
            )
        heads[head] = opened.protocol.labels_of(ids)
    return Predictions(test_set.labels, heads)


def command() -> None:
    """The console command `mnemonics-evaluate`."""
    define_flags()
    start(main)


if __name__ == "__main__":
    command()
