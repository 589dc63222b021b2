"""Runs the grid of one of the paper's tables and prints it beside the paper's figures.

python -m tools.reproduce --table=1 --dataset=cifar100 --schedule=cpu --seeds=0,1 --data_dir=DIR

Three tables are not the paper's: `bytes` (what is kept in the bytes of 20 plain images of
CIFAR-100), `shift` (how far learned exemplars may move) and `jpeg` (its quality, and how many of
the new images go through it too), each of LwF and LUCIR with all kernels and with frozen ones.
--rows and --methods choose rows; --train_flags are further flags of every run, which its results
must have too, as in --train_flags="--mixed_precision=bfloat16 --last_phase=10".

Can be stopped (Ctrl-C, SIGTERM: exit status 75) and started again at any point: what is done is
skipped, what was begun goes on. Runs with the same classifier and seed share the model of phase 0,
with --share_phase0 those of all seeds; --phase0_from names further runs to take it from. --jobs=2
trains two runs at a time. A run that fails leaves the others alone; the exit status is then 1.
--dry_run shows what is left.

iCaRL trains exactly as LwF does (mnemonics_tf/methods/icarl.py changes the head that predicts and
nothing else), and results.json holds both heads: the rows of iCaRL are the runs of LwF, trained
once and read by the nearest-mean head.

--published names a folder of results.json files, one a run, without confusion matrices. What stands
there counts as done, and each run that ends well is added: with the folder committed, a table can
be continued on another machine.
"""

import mnemonics_tf.startup  # isort: skip  # noqa: F401 (before TensorFlow)
import pathlib
import shlex
import statistics
import sys
from collections.abc import Sequence

from absl import app, flags

from mnemonics_tf.errors import UserError
from mnemonics_tf.monitoring.pictures import check_picture
from mnemonics_tf.monitoring.progress import duration
from mnemonics_tf.paths import user_path
from mnemonics_tf.program import program, refuse_arguments
from mnemonics_tf.run.files import check_folder, check_output, check_path
from mnemonics_tf.run.interruption import EXIT_STATUS
from mnemonics_tf.settings import GROUP_OF
from tools.reproduce_cells import OWN_TABLES, TABLES, TIMES, cells
from tools.reproduce_flags import is_value, values
from tools.reproduce_picture import refuse_no_difference, write_picture
from tools.reproduce_results import Place, Run, refuse_unlike
from tools.reproduce_runs import (
    Signals,
    Trainer,
    check_phase0_from,
    find_phase0,
    printed,
    train_all,
)
from tools.reproduce_table import text_table, write_markdown

_TABLE = flags.DEFINE_enum("table", "1", list(TABLES), "Which table.")
_DATASET = flags.DEFINE_enum("dataset", "cifar100", ["cifar100", "digits"], "Data source.")
_SCHEDULE = flags.DEFINE_enum(
    "schedule", "cpu", ["paper", "cpu", "short", "smoke"], "How long to train."
)
_METHODS = flags.DEFINE_list("methods", [], "Methods whose rows are wanted; empty: all.")
_ROWS = flags.DEFINE_string(
    "rows",
    "",
    "Regular expression that names of wanted rows hold, as in 'frozen (herd|learn)'. Differences "
    "from herding are there where its runs are done, wanted or not.",
)
_CEILING = flags.DEFINE_boolean(
    "ceiling", True, "Rows with four times the exemplars and more, at the same replay."
)
_TRAIN_FLAGS = flags.DEFINE_string("train_flags", "", "Further flags of every run.")
_PHASES = flags.DEFINE_list("num_phases", ["5"], "Values of N.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds; intervals need three or more.")
_OUTPUT = flags.DEFINE_string("output", "runs/reproduce", "Directory of the runs.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Directory (or archive) that holds the data.")
_JOBS = flags.DEFINE_integer("jobs", 1, "Runs that train at a time.", lower_bound=1)
_PHASE0_FROM = flags.DEFINE_list(
    "phase0_from",
    [],
    "Run directories of this schedule, whose phase-0 model runs of their data, classifier and seed "
    "take.",
)
_SHARE_PHASE0 = flags.DEFINE_boolean(
    "share_phase0", False, "All seeds take one model of phase 0: that of the first that trains one."
)
_PUBLISHED = flags.DEFINE_string(
    "published", None, "Folder of results files named after the runs: read, and added to."
)
_MARKDOWN = flags.DEFINE_string("markdown", None, "File for the table in Markdown.")
_PICTURE = flags.DEFINE_string(
    "picture", None, "File (.png, .svg, .pdf) for a picture of how far rows are ahead of herding."
)
_TRAIN = flags.DEFINE_boolean("train", True, "Train what is left; else the table of what is done.")
_DRY_RUN = flags.DEFINE_boolean("dry_run", False, "Show what is left, run nothing.")

_SCHEDULES = {
    ("cifar100", "paper"): ["--flagfile=configs/cifar100.flags"],
    ("cifar100", "cpu"): ["--flagfile=configs/cifar100_cpu.flags"],
    # A later phase of "cpu" takes two cores 12 minutes and more; table 1 has eighty for each seed.
    # Phase 0 is that of "cpu", so that its model serves here too.
    ("cifar100", "short"): [
        "--flagfile=configs/cifar100_cpu.flags",
        *("--epochs=5", "--finetune_epochs=10", "--outer_steps=20"),
        # At the rate meant for 50 steps, 10 move next to nothing that outlasts rounding to uint8.
        *("--adjust_steps=10", "--adjust_learning_rate=0.02"),
    ],
    ("cifar100", "smoke"): [
        "--flagfile=configs/cifar100_cpu.flags",
        *("--depth=8", "--base_epochs=1", "--epochs=1", "--finetune_epochs=1"),
        *("--outer_steps=2", "--adjust_steps=2"),
    ],
    ("digits", "smoke"): [
        *("--base_classes=5", "--base_epochs=2", "--epochs=1", "--finetune_epochs=1"),
        *("--outer_steps=2", "--adjust_steps=2"),
    ],
}


@program(stopped="stopped at once; the same command goes on with what is left")
def main(arguments: list[str]) -> int:
    """Runs what is not done and prints the table."""
    refuse_arguments(arguments)
    return _reproduce()


def _reproduce() -> int:
    more = _train_flags()
    schedule = [*_schedule(), *more]
    _refuse_flags_of_rows(more)
    given = check_phase0_from(_PHASE0_FROM.value)
    _check_paths()
    rows = _grid(schedule, more, _ROWS.value)
    beside = [run for run in _grid(schedule, more) if _is_compared_with(run, rows)]
    runs = list({run.name: run for run in rows}.values())  # rows may share a run
    if _PICTURE.value:
        refuse_no_difference(rows, beside)
    if _DRY_RUN.value:
        _show(runs, Trainer(schedule, _DATA_DIR.value), given)
        return 0
    refuse_unlike(runs)
    for run in runs:
        run.publish()
    signals = Signals()
    signals.listen()
    _print_left(runs)

    def finished(run: Run) -> None:
        refuse_unlike(runs)
        run.publish()
        _print_left(runs)

    failed = train_all(
        [run for run in runs if not run.is_done()] if _TRAIN.value else [],
        Trainer(schedule, _DATA_DIR.value, _JOBS.value),
        jobs=_JOBS.value,
        given=given,
        signals=signals,
        finished=finished,
    )
    for run in failed:
        print(f"failed: {run.name}\n  see {printed(run)}")
    print(text_table(rows, beside))
    if _MARKDOWN.value:
        write_markdown(user_path(_MARKDOWN.value), rows, beside)
    status = 1 if failed else 0
    if signals.requested and not all(run.is_done() for run in runs):
        status = EXIT_STATUS
    if _PICTURE.value:
        try:
            write_picture(user_path(_PICTURE.value), rows, beside)
        except UserError as error:
            if not status:
                raise
            print(f"no picture: {error}", file=sys.stderr)
    return status


def _schedule() -> list[str]:
    """Returns the flags of --schedule.

    Raises:
        UserError: if the data set has none of this name, or the table is not of its images.
    """
    schedule = _SCHEDULES.get((_DATASET.value, _SCHEDULE.value))
    if schedule is None:
        known = ", ".join(name for dataset, name in _SCHEDULES if dataset == _DATASET.value)
        raise UserError(
            f"--schedule={_SCHEDULE.value}: --dataset={_DATASET.value} has no such schedule; "
            f"it has {known}"
        )
    if _TABLE.value in OWN_TABLES and _DATASET.value != "cifar100":
        raise UserError(
            f"--table={_TABLE.value}: its bytes are those of CIFAR-100's images: pass "
            f"--dataset=cifar100, not {_DATASET.value}"
        )
    return schedule


def _check_paths() -> None:
    """Refuses paths that can't be read or written, before anything is trained."""
    for name, flag in (("output", _OUTPUT), ("published", _PUBLISHED), ("data_dir", _DATA_DIR)):
        check_path(f"--{name}", flag.value or "")
    for name, flag in (("output", _OUTPUT), ("published", _PUBLISHED)):
        if flag.value:
            check_folder(f"--{name}", user_path(flag.value))
    if _MARKDOWN.value:
        check_output("--markdown", user_path(_MARKDOWN.value))
    if _PICTURE.value:
        check_picture(user_path(_PICTURE.value), "--picture")


def _grid(schedule: Sequence[str], more: Sequence[str], wanted: str = "") -> list[Run]:
    """Returns the runs of the table, first seeds first, one for each of its rows.

    Args:
        schedule: flags that say how long to train, further ones included.
        more: the further ones: runs that differ in them lie in different folders.
        wanted: regular expression that names of rows hold.
    """
    place = Place(
        _DATASET.value,
        tuple(flags.FLAGS.read_flags_from_files(schedule)),
        user_path(_OUTPUT.value) / "_".join([_DATASET.value, _SCHEDULE.value, *_named(more)]),
        user_path(_PUBLISHED.value) if _PUBLISHED.value else None,
        _SHARE_PHASE0.value,
    )
    return [
        Run(place, cell, num_phases, seed)
        for seed in _integers("seeds", _SEEDS.value)
        for num_phases in _integers("num_phases", _PHASES.value)
        for cell in cells(_TABLE.value, _METHODS.value, _CEILING.value, wanted)
    ]


def _is_compared_with(run: Run, rows: Sequence[Run]) -> bool:
    """Whether a run is done that rows compare with, be it a row itself or not."""
    cells = {row.cell for row in rows}
    return run.is_done() and any(
        cell.compares_with(run.cell) or cell.begins_as(run.cell) for cell in cells
    )


def _train_flags() -> list[str]:
    try:
        passed = shlex.split(_TRAIN_FLAGS.value)
    except ValueError as error:
        raise UserError(f"--train_flags={_TRAIN_FLAGS.value}: {error}") from error
    for flag in passed:
        if not flag.startswith("--") or _setting(flag) not in GROUP_OF or not is_value(flag):
            raise UserError(
                f"--train_flags={_TRAIN_FLAGS.value}: {flag!r} is no setting of a run with its "
                'value: expected some like those of --train_flags="--mixed_precision=bfloat16 '
                '--last_phase=10"'
            )
    return passed


def _setting(flag: str) -> str:
    """Returns the name of the setting that a flag sets: of --nofoo and --foo=1 `foo`."""
    (name,) = values([flag])
    return name


def _refuse_flags_of_rows(passed: Sequence[str]) -> None:
    """Refuses further flags that rows of the table, or this command, set: they tell rows apart."""
    own = {"dataset", "data_dir", "run_dir", "phase0_from", "num_phases", "seed"}
    rows = cells(_TABLE.value, ceiling=True)
    own |= {_setting(flag) for cell in rows for flag in cell.flags()}
    if _TABLE.value in OWN_TABLES:  # all of one budget
        own |= {"exemplars_per_class", "exemplars_total", "exemplar_bytes_total"}
    if _CEILING.value and any(cell.ceiling for cell in rows):
        _refuse_flags_of_ceilings(passed, own)
    if taken := [flag for flag in passed if _setting(flag) in own]:
        raise UserError(
            f"--train_flags={_TRAIN_FLAGS.value}: rows of --table={_TABLE.value}, or this "
            f"command's own flags, set --{_setting(taken[0])}: leave {taken[0]} out"
        )


def _refuse_flags_of_ceilings(passed: Sequence[str], own: set[str]) -> None:
    """Refuses flags by which a ceiling would have no more exemplars, or another replay.

    Args:
        passed: further flags of every run.
        own: settings that are refused whatever rows there are.
    """
    budgets = {"exemplars_total", "exemplar_bytes_per_class", "exemplar_bytes_total"}
    theirs = {"replay_per_class", *budgets}
    if taken := [flag for flag in passed if _setting(flag) in theirs - own]:
        raise UserError(
            f"--train_flags={_TRAIN_FLAGS.value}: ceilings have {TIMES} times the exemplars of a "
            f"class, and their own replay: leave {taken[0]} out, or pass --noceiling"
        )


def _named(more: Sequence[str]) -> list[str]:
    return [flag.removeprefix("--").replace("=", "-").replace("/", "-") for flag in sorted(more)]


def _integers(name: str, values: Sequence[str]) -> list[int]:
    expected = f"--{name}={','.join(values)}: expected integers, as in 0,1,2"
    if not values:
        raise UserError(expected)
    try:
        return list(dict.fromkeys(map(int, values)))  # the same seed twice makes no interval
    except ValueError as error:
        raise UserError(expected) from error


def _show(runs: Sequence[Run], trainer: Trainer, given: Sequence[pathlib.Path]) -> None:
    _print_left(runs)
    for run in runs:
        if not run.is_done():
            print(f"{run.name}\n  {shlex.join(trainer.command(run, find_phase0(run, given)))}")


def _print_left(runs: Sequence[Run]) -> None:
    """Prints how many runs are left and how long they take, by those that are done."""
    times = [run.figures().seconds for run in runs if run.is_done()]
    left = len(runs) - len(times)
    expected = ""
    if times and left:
        rounds = left / min(_JOBS.value, left)
        expected = f", about {duration(statistics.mean(times) * rounds)}"
    print(f"{len(times)} of {len(runs)} runs done, {left} left{expected}", flush=True)


if __name__ == "__main__":
    app.run(main)
