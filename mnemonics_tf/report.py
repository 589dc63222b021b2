"""Compares runs: python -m mnemonics_tf.report [NAME=]RUN [[NAME=]RUN ...] [--data_dir=DIR].

RUN is a run directory, or a results.json where curves and tables are enough; NAME is what the
report calls it. Writes one HTML page that opens from the file system, and its tables as Markdown
beside it. Runs with the same name and settings and with other seeds become one line, from three
seeds on with a 95% interval. Differences are formed seed by seed from the first run passed. The
t-SNE needs the runs' data.
"""

import mnemonics_tf.startup  # isort: skip  # noqa: F401 (before TensorFlow)
import functools
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from absl import flags

from mnemonics_tf.data.image_set import ArrayImageSet
from mnemonics_tf.data.sources import open_source
from mnemonics_tf.errors import UserError, printable
from mnemonics_tf.extension.reopened import reopened
from mnemonics_tf.opened_run import OpenedRun
from mnemonics_tf.paths import user_path
from mnemonics_tf.program import program, start
from mnemonics_tf.registry import flags_of, own_code
from mnemonics_tf.reporting import markdown, matrix
from mnemonics_tf.reporting.comparability import warnings
from mnemonics_tf.reporting.embedding import check_installed, embed
from mnemonics_tf.reporting.groups import Group, group_runs
from mnemonics_tf.reporting.page import Embedded, page
from mnemonics_tf.reporting.runs import load_runs, seeds_in_words
from mnemonics_tf.run.data_facts import (
    OtherDataError,
    refuse_other_classes,
    refuse_other_data,
)
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import check_output, check_path, write_text
from mnemonics_tf.run.history import read_history
from mnemonics_tf.run.learned import learned_phases, recorded_data_dir
from mnemonics_tf.run.resume import read_settings
from mnemonics_tf.settings import RunSettings, Settings
from mnemonics_tf.terminal import passing


def define_flags() -> None:
    """Defines this program's flags; a function, for `train` has flags of the same names."""
    flags.DEFINE_string(
        "output", "report.html", "Page to write; its tables go beside it, as .md and .csv."
    )
    flags.DEFINE_string(
        "data_dir",
        "",
        "Directory (or archive) that holds the data, for the t-SNE of exemplars; empty: where the "
        "run had it.",
    )


@program()
def main(arguments: list[str]) -> int:
    """Writes the report of the runs that are passed as arguments."""
    if len(arguments) < 2:
        raise UserError("pass run directories or results.json files to report on")
    values = flags.FLAGS
    return report(arguments[1:], user_path(values.output), values.data_dir)


def report(paths: Sequence[str], output: pathlib.Path, data_dir: str) -> int:
    """Writes the page and its Markdown; returns the exit status.

    Args:
        paths: of runs, `NAME=` before those that have a name.
        output: the page, ending in .html.
        data_dir: where the data is, for the t-SNE; empty: where the run had it, and where it is no
            longer there the t-SNE is left out.

    Raises:
        UserError: if a run can't be read or the page can't be written.
    """
    _check_output(output)
    check_path("--data_dir", data_dir)
    runs = load_runs(paths)
    groups = group_runs(runs)
    found = warnings(runs, groups)
    for text in found:
        print(f"warning: {text}", file=sys.stderr)
    embedded = _embedded(groups, data_dir)
    passing("")
    if embedded.reason:
        print(f"t-SNE left out: {embedded.reason}", file=sys.stderr)
    write_text(output, page(groups, found, embedded), "--output")
    write_text(output.with_suffix(".md"), markdown.summary(groups, found), "--output")
    write_text(output.with_suffix(".csv"), matrix.as_csv(groups), "--output")
    print(f"report:  {output}\nsummary: {output.with_suffix('.md')}")
    print(f"matrix:  {output.with_suffix('.csv')}")
    return 0


def _check_output(output: pathlib.Path) -> None:
    """Refuses what the page can't be written to, before any work.

    The names of its tables follow from the page's: files of these names that no report wrote are
    not replaced.
    """
    if output.suffix != ".html":
        raise UserError(f"--output={printable(output)}: pass a name that ends in .html")
    check_output("--output", output)
    for suffix, title in ((".md", markdown.TITLE), (".csv", matrix.TITLE)):
        path = output.with_suffix(suffix)
        check_output("--output", path)
        if path.exists() and not _begins_with(path, title):
            raise UserError(
                f"--output={printable(output)} writes {printable(path.name)} beside the page, and "
                "the file of that name is none of a report: pass another name, or move that file"
            )


def _begins_with(path: pathlib.Path, title: str) -> bool:
    """Whether a file is empty or begins with a line of text."""
    with path.open("rb") as file:
        begin = file.read(len(title.encode()) + 1)
    return begin in (b"", f"{title}\n".encode())


def _embedded(groups: Sequence[Group], data_dir: str) -> Embedded:
    """Makes the t-SNE for the first run that learned exemplars, or else the first run.

    A group is stood for by its first run that was passed as a directory. Of runs on different data,
    those that are not of this data don't count.

    Raises:
        OtherDataError: if no run is of the data that was passed.
    """
    whole = [(group, [run for run in group.runs if run.directory]) for group in groups]
    candidates = [(group, runs[0]) for group, runs in whole if runs]
    candidates.sort(key=lambda pair: "mnemonics" not in pair[1].kinds_of_exemplars())
    if not candidates:
        return Embedded("", (), "it needs a run directory; only results.json files were passed")
    try:
        check_installed()
    except UserError as error:
        return Embedded("", (), str(error))
    others: list[OtherDataError] = []
    for group, run in candidates:
        try:
            assert run.directory is not None, "the candidates have one"
            passing("reading data for the t-SNE ...")
            opened = _opened(run.directory, data_dir)
            passing("laying exemplars and their classes out (t-SNE) ...")
            features_of = functools.partial(_features, opened)
            pictures = embed(run, opened.source, features_of)
        except OtherDataError as error:
            others.append(error)
        except UserError as error:
            hint = "" if data_dir else " (pass the data with --data_dir)"
            return Embedded(group.name, (), f"{error}{hint}")
        else:
            return Embedded(f"{group.name}, seed {seeds_in_words(run.seeds)}", pictures)
    if not data_dir:  # images at the place where the run had them are others by now
        return Embedded("", (), f"{others[0]}")
    raise others[0]


def _opened(directory: RunDirectory, data_dir: str) -> OpenedRun:
    """Returns a run with its data.

    Raises:
        UserError: if the data is not there or not what the run learned from, or if the run names
            code of its own.
    """
    place = data_dir or recorded_data_dir(directory)
    run = RunSettings(run_dir=str(directory.root), data_dir=place)
    wanted = Settings.from_results_settings(read_settings(directory), run)
    own = own_code(wanted)
    if own:
        # A report is made of other people's runs too, and only arrays of theirs are read.
        raise UserError(
            f"it would run code that the run names ({flags_of(own)}), which a report does not do"
        )
    source = open_source(wanted)
    remedy = "pass the data that it learned from as --data_dir"
    if data_dir:
        remedy += ", or none to leave the t-SNE out"
    refuse_other_classes(directory, source.class_names, remedy)
    opened = OpenedRun(wanted, source, tf.distribute.get_strategy())
    refuse_other_data(directory, opened.class_facts(), remedy, parts=("training",))
    if learned_phases(directory):
        return reopened(read_history(directory, run), source)
    return opened


def _features(opened: OpenedRun, phase: int, images: np.ndarray) -> np.ndarray:
    """Returns features of a phase's model, from its arrays: a SavedModel can hold any program."""
    model = opened.load_model(phase)
    rows = ArrayImageSet(images, np.zeros(len(images), np.int32))
    return opened.workshop.evaluator(model).features(rows)


def command() -> None:
    """The console command `mnemonics-report`."""
    define_flags()
    start(main)


if __name__ == "__main__":
    command()
