"""Runs the grid of one of the paper's tables and prints it beside the paper's figures.

python -m tools.reproduce --table=1 --dataset=cifar100 --schedule=cpu --seeds=0,1 --data_dir=DIR

Can be stopped and started again at any point: what is done is skipped, what was begun goes on. Runs
with the same classifier and seed share the model of phase 0. --dry_run shows what is left.
"""

import dataclasses
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Iterator

from absl import app, flags

from mnemonics_tf import paper
from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluation.intervals import mean_and_interval
from mnemonics_tf.methods import METHODS
from mnemonics_tf.progress import duration
from mnemonics_tf.run_directory import RunDirectory, read_json

_TABLE = flags.DEFINE_enum("table", "1", ["1", "2", "ablation"], "Which table.")
_DATASET = flags.DEFINE_enum("dataset", "cifar100", ["cifar100", "digits"], "Data source.")
_SCHEDULE = flags.DEFINE_enum("schedule", "cpu", ["paper", "cpu", "smoke"], "How long to train.")
_PHASES = flags.DEFINE_list("num_phases", ["5"], "Values of N.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds; intervals need two or more.")
_OUTPUT = flags.DEFINE_string("output", "runs/reproduce", "Directory of the runs.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Directory (or archive) that holds the data.")
_DRY_RUN = flags.DEFINE_boolean("dry_run", False, "Show what is left, run nothing.")

_SCHEDULES = {
    ("cifar100", "paper"): ["--flagfile=configs/cifar100.flags"],
    ("cifar100", "cpu"): ["--flagfile=configs/cifar100_cpu.flags"],
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


@dataclasses.dataclass(frozen=True)
class Cell:
    """A row of a table: a method with its exemplars.

    Attributes:
        name: shown in the table.
        method: value of --method.
        exemplars: value of --exemplars.
        transfer: with weight transfer.
        adjust: with adjustment of old exemplars.
        finetune: with the balanced fine-tune.
    """

    name: str
    method: str
    exemplars: str
    transfer: bool
    adjust: bool
    finetune: bool

    def flags(self) -> list[str]:
        """Returns the flags of a run of this cell."""
        chosen = [
            f"--method={self.method}",
            f"--exemplars={self.exemplars}",
            f"--{'' if self.transfer else 'no'}weight_transfer",
            f"--{'' if self.adjust else 'no'}adjust_old_exemplars",
        ]
        return chosen if self.finetune else [*chosen, "--finetune_epochs=0"]

    def figures(self, dataset: str, num_phases: int) -> tuple[float, float] | None:
        """Returns the paper's average accuracy and forgetting, or None where it has none."""
        choices = paper.Choices(
            self.method, self.exemplars, self.transfer, self.adjust, self.finetune
        )
        row = paper.published(dataset, num_phases, choices)
        return (row.accuracy, row.forgetting) if row and not row.departures else None


def cells(table: str) -> list[Cell]:
    """Returns the rows of a table."""
    methods = ("lwf", "icarl", "bic", "lucir")
    if table == "1":
        rows = []
        for method in methods:
            rows.append(Cell(method, method, "herding", False, False, False))
            rows.append(Cell(f"{method} w/ ours", method, "mnemonics", True, True, True))
        return [*rows, Cell("joint", "joint", "herding", False, False, False)]
    if table == "2":
        return [
            Cell(f"{kind}{'' if adjust else ' w/o adj.'}", "lucir", kind, True, adjust, True)
            for kind in ("random", "herding", "mnemonics")
            for adjust in (False, True)
        ]
    # One thing at a time, on LUCIR: what the published gain mixes.
    steps = (
        ("herding", "herding", False, False, False),
        ("+ fine-tune", "herding", False, False, True),
        ("+ weight transfer", "herding", True, False, False),
        ("+ both", "herding", True, False, True),
        ("+ both, adjusted", "herding", True, True, True),
        ("mnemonics, nothing else", "mnemonics", False, False, False),
        ("mnemonics + both", "mnemonics", True, False, True),
        ("mnemonics + both, adjusted", "mnemonics", True, True, True),
    )
    return [Cell(name, "lucir", *choices) for name, *choices in steps]


@dataclasses.dataclass(frozen=True)
class Run:
    """A cell with a number of phases and a seed."""

    cell: Cell
    num_phases: int
    seed: int

    @property
    def directory(self) -> RunDirectory:
        """Where the run lies; runs of different tables that are the same share it."""
        name = "_".join(flag.removeprefix("--").replace("=", "-") for flag in self.cell.flags())
        root = pathlib.Path(_OUTPUT.value) / f"{_DATASET.value}_{_SCHEDULE.value}"
        return RunDirectory(root / f"{name}_N{self.num_phases}_seed{self.seed}")

    @property
    def shares_phase0_with(self) -> tuple[str, int]:
        """Runs with the same value have the same phase 0."""
        return METHODS[self.cell.method].classifier, self.seed

    def is_done(self) -> bool:
        """Whether its results are written."""
        return self.directory.results.exists()

    def execute(self, phase0_from: RunDirectory | None) -> None:
        """Trains the run, or goes on with it."""
        command = [
            *(sys.executable, "-m", "mnemonics_tf.train"),
            *_SCHEDULES[_DATASET.value, _SCHEDULE.value],
            *self.cell.flags(),
            *(f"--num_phases={self.num_phases}", f"--seed={self.seed}"),
            *(f"--data_dir={_DATA_DIR.value}", f"--run_dir={self.directory.root}"),
        ]
        if phase0_from:
            command.append(f"--phase0_from={phase0_from.root}")
        subprocess.run(command, check=True)


def grid() -> Iterator[Run]:
    """Yields the runs of the table, first seeds first."""
    for seed in _SEEDS.value:
        for num_phases in _PHASES.value:
            for cell in cells(_TABLE.value):
                yield Run(cell, int(num_phases), int(seed))


def main(_: list[str]) -> None:
    """Runs what is not done and prints the table."""
    if (_DATASET.value, _SCHEDULE.value) not in _SCHEDULES:
        raise UserError(f"--dataset={_DATASET.value} has no --schedule={_SCHEDULE.value}")
    runs = list(grid())
    left = [run for run in runs if not run.is_done()]
    _print_left(runs, left)
    for run in left if not _DRY_RUN.value else ():
        donors = [
            other.directory
            for other in runs
            if other.shares_phase0_with == run.shares_phase0_with
            and other.directory.base_model.exists()
            and other != run
        ]
        run.execute(donors[0] if donors else None)
        _print_left(runs, [run for run in left if not run.is_done()])
    print(table(runs))


def _print_left(runs: list[Run], left: list[Run]) -> None:
    times = [_seconds(run) for run in runs if run.is_done()]
    expected = f", about {duration(statistics.mean(times) * len(left))}" if times else ""
    print(
        f"{len(runs) - len(left)} of {len(runs)} runs done, {len(left)} left{expected}", flush=True
    )


def _seconds(run: Run) -> float:
    phases = read_json(run.directory.results)["phases"]
    return sum(sum(phase["seconds"].values()) for phase in phases)


def table(runs: list[Run]) -> str:
    """Returns the table: ours with 95% intervals over seeds, the paper's, the difference."""
    lines = [f"{'':<28}{'N':>3}  {'average accuracy (%)':^31}  {'forgetting (%)':^31}"]
    heads = f"{'ours':>15}{'paper':>8}{'diff.':>8}"
    lines.append(f"{'':<28}{'':>3}  {heads}  {heads}")
    groups: dict[tuple[Cell, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.cell, run.num_phases), []).append(run)
    for (cell, num_phases), members in groups.items():
        figures = cell.figures(_DATASET.value, num_phases)
        columns = []
        for i, metric in enumerate(("average_accuracy", "forgetting")):
            values = [_metric(run, metric) for run in members if run.is_done()]
            columns.append(_column(values, figures[i] if figures else None))
        lines.append(f"{cell.name:<28}{num_phases:>3}  {'  '.join(columns)}")
    return "\n".join(lines)


def _metric(run: Run, metric: str) -> float:
    head = METHODS[run.cell.method].prediction_head
    return 100 * read_json(run.directory.results)["summary"][head][metric]


def _column(values: list[float], published: float | None) -> str:
    if not values:
        return f"{'-':>15}{published or '-':>8}{'':>8}"
    mean, half_width = mean_and_interval(values)
    ours = f"{mean:.2f}" if half_width is None else f"{mean:.2f} ± {half_width:.2f}"
    if published is None:
        return f"{ours:>15}{'-':>8}{'':>8}"
    return f"{ours:>15}{published:>8.2f}{mean - published:>+8.2f}"


if __name__ == "__main__":
    app.run(main)
