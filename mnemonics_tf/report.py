"""Compares runs: python -m mnemonics_tf.report RUN [RUN ...] [--data_dir=DIR].

RUN is a run directory, or a results.json where curves and tables are enough. Writes one HTML page
that opens from the file system, and its tables as Markdown beside it. Runs with the same settings
and other seeds become one line with 95% intervals. The t-SNE needs the runs' data.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags, logging

from mnemonics_tf.data.source import DataSource
from mnemonics_tf.data.sources import open_source
from mnemonics_tf.errors import UserError, printable
from mnemonics_tf.phases.checks import make_protocol
from mnemonics_tf.reporting import markdown
from mnemonics_tf.reporting.embedding import embed
from mnemonics_tf.reporting.page import Embedded, page
from mnemonics_tf.reporting.runs import Group, group_runs, load_runs, warnings
from mnemonics_tf.run.data_facts import (
    OtherDataError,
    data_facts,
    refuse_other_classes,
    refuse_other_data,
)
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import check_path, temporary_name, write_text
from mnemonics_tf.run.resume import read_settings
from mnemonics_tf.settings import RunSettings, Settings


def define_flags() -> None:
    """Defines this program's flags; a function, for `train` has flags of the same names."""
    flags.DEFINE_string("output", "report.html", "Page to write; Markdown goes beside it.")
    flags.DEFINE_string(
        "data_dir", "", "Directory (or archive) that holds the data, for the t-SNE of exemplars."
    )


def main(arguments: list[str]) -> int:
    """Writes the report of the runs that are passed as arguments."""
    values = flags.FLAGS
    if not values["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    try:
        if len(arguments) < 2:
            raise UserError("pass run directories or results.json files to report on")
        return report(arguments[1:], pathlib.Path(values.output), values.data_dir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def report(paths: Sequence[str], output: pathlib.Path, data_dir: str) -> int:
    """Writes the page and its Markdown; returns the exit status.

    Args:
        paths: of runs.
        output: the page, ending in .html.
        data_dir: where the data is; empty leaves out the t-SNE, unless the data needs no directory.

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
    if embedded.reason:
        print(f"t-SNE left out: {embedded.reason}", file=sys.stderr)
    write_text(output, page(groups, found, embedded), "--output")
    write_text(output.with_suffix(".md"), markdown.summary(groups, found), "--output")
    print(f"report:  {output}\nsummary: {output.with_suffix('.md')}")
    return 0


def _check_output(output: pathlib.Path) -> None:
    """Refuses what the page can't be written to, before any work."""
    if output.suffix != ".html":
        raise UserError(f"--output={printable(output)}: pass a name that ends in .html")
    for path in (output, output.with_suffix(".md")):
        check_path("--output", temporary_name(path))
        if path.is_dir():
            raise UserError(f"--output={output}: {path} is a folder: pass the name of a file")


def _embedded(groups: Sequence[Group], data_dir: str) -> Embedded:
    """Makes the t-SNE for the first run that learned exemplars, or else the first run.

    Of runs on different data, those that are not of this data don't count.

    Raises:
        OtherDataError: if no run is of this data.
    """
    candidates = [group for group in groups if group.first.directory]
    candidates.sort(key=lambda group: group.choices.exemplars != "mnemonics")
    if not candidates:
        return Embedded("", (), "it needs a run directory; only results.json files were passed")
    others: list[OtherDataError] = []
    for group in candidates:
        try:
            pictures = embed(group.first, _source_of(group.first.directory, data_dir))
        except OtherDataError as error:
            others.append(error)
        except UserError as error:
            hint = "" if data_dir else " (pass the data with --data_dir)"
            return Embedded(group.name, (), f"{error}{hint}")
        else:
            return Embedded(f"{group.name}, seed {group.first.seeds[0]}", pictures)
    raise others[0]


def _source_of(directory: RunDirectory, data_dir: str) -> DataSource:
    """Opens a run's data.

    Raises:
        UserError: if it is not there, or is not what the run learned from.
    """
    run = RunSettings(run_dir=str(directory.root), data_dir=data_dir)
    settings = Settings.from_results_settings(read_settings(directory), run)
    source = open_source(settings)
    remedy = "pass the data that it learned from as --data_dir, or none to leave the t-SNE out"
    refuse_other_classes(directory, source.class_names, remedy)
    names, ids = source.class_names, source.original_ids
    protocol = make_protocol(settings, len(names), names, ids)
    refuse_other_data(directory, data_facts(source, protocol), remedy, parts=("training",))
    return source


if __name__ == "__main__":
    define_flags()
    app.run(main)
