"""The table: figures over the seeds beside the paper's, on a terminal and as Markdown."""

import dataclasses
import pathlib
import statistics
from collections.abc import Sequence

from mnemonics_tf.evaluation.intervals import mean_and_interval
from mnemonics_tf.methods import METHODS
from mnemonics_tf.run.files import write_text
from tools.reproduce_cells import TIMES, TRAINED_AS, Cell
from tools.reproduce_results import Run, departures, refuse_other_data

#: the paper's exemplar learning to the letter
_LETTER = "configs/cifar100_mnemonics_literal.flags"


@dataclasses.dataclass(frozen=True)
class Value:
    """A figure over the seeds, with the paper's."""

    mean: float | None
    half_width: float | None = None
    published: float | None = None

    @property
    def ours(self) -> str:
        """The mean, and from two seeds on the half width of its 95% interval."""
        if self.mean is None:
            return "-"
        interval = "" if self.half_width is None else f" ± {self.half_width:.2f}"
        return f"{self.mean:.2f}{interval}"

    @property
    def paper(self) -> str:
        """The paper's figure."""
        return "-" if self.published is None else f"{self.published:.2f}"

    @property
    def difference(self) -> str:
        """Ours less the paper's."""
        known = self.mean is not None and self.published is not None
        return f"{self.mean - self.published:+.2f}" if known else ""


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of a table; its values are None where no run is done.

    Attributes:
        name: of the cell.
        num_phases: N.
        seeds: of the runs that are done.
        accuracy: average accuracy.
        later: the authors' later figure of it, or None.
        forgetting: F.
        last: accuracy after the last phase.
        minutes: of the later phases.
        before: average accuracy before the fine-tunes.
        constant: average accuracy with the best constant.
        hardware: that the runs had.
    """

    name: str
    num_phases: int
    seeds: tuple[int, ...]
    accuracy: Value
    later: float | None
    forgetting: Value
    last: Value
    minutes: Value
    before: Value
    constant: Value
    hardware: str


def rows(runs: Sequence[Run]) -> list[Row]:
    """Returns the table of the runs that are done, a row for each cell and number of phases.

    Raises:
        UserError: if they learned from other data than each other.
    """
    refuse_other_data(runs)
    groups: dict[tuple[Cell, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.cell, run.num_phases), []).append(run)
    table = []
    for (cell, num_phases), members in groups.items():
        done = [run for run in members if run.is_done()]
        figures = [run.figures() for run in done]
        paper = cell.published(members[0].place.dataset, num_phases)
        table.append(
            Row(
                cell.name,
                num_phases,
                tuple(run.seed for run in done),
                _value([one.average_accuracy for one in figures], paper and paper.accuracy),
                paper and paper.authors_later,
                _value([one.forgetting for one in figures], paper and paper.forgetting),
                _value([one.last_accuracy for one in figures]),
                Value(
                    statistics.fmean(one.later_seconds for one in figures) / 60 if done else None
                ),
                _value([one.before_finetune for one in figures]),
                _value([one.with_best_constant for one in figures]),
                "; ".join(dict.fromkeys(one.hardware for one in figures if one.hardware)),
            )
        )
    return table


def _value(values: Sequence[float | None], published: float | None = None) -> Value:
    known = values and None not in values
    return Value(*(mean_and_interval(values) if known else (None, None)), published)


def notes(runs: Sequence[Run]) -> list[str]:
    """Returns what a reader of the table must know."""
    lines = [
        "ours: mean over the seeds, with its 95% interval from two seeds on",
        "paper: the conference version; later: what the authors reported afterwards (their README "
        "and, for LUCIR, a later paper)",
        "before: average accuracy before the fine-tune of each phase",
        "constant: average accuracy of the classifier with the best constant on the logits of new "
        "classes, which is chosen on the test data: no result, but what a bias costs",
    ]
    if any(run.cell.ceiling for run in runs):
        lines.append(
            f"ceiling: {TIMES} times the exemplars, of which an epoch replays as many as the "
            "other rows have: what better exemplars could gain"
        )
    learned = [run.figures().learning for run in runs if run.is_done()]
    if recipe := departures(learned, _LETTER):
        lines.append(
            f"learned exemplars (ours): unlike the letter of the paper, {_LETTER}, which is told "
            f"in brackets: {', '.join(recipe)}"
        )
    for method in sorted({run.cell.method for run in runs} & set(TRAINED_AS)):
        lines.append(
            f"{method} trains exactly as {TRAINED_AS[method]} does: its rows are the runs of "
            f"{TRAINED_AS[method]}, read by the {METHODS[method].prediction_head} head"
        )
    return lines


def _later(row: Row) -> str:
    return "-" if row.later is None else f"{row.later:.2f}"


def text_table(runs: Sequence[Run]) -> str:
    """Returns the table for a terminal."""
    heads = f"{'ours':>15}{'paper':>8}{'diff.':>8}"
    lines = [
        f"{'':<28}{'N':>3}  {'average accuracy (%)':^39}  {'forgetting (%)':^31}",
        f"{'':<28}{'':>3}  {heads}{'later':>8}  {heads}{'before':>16}{'constant':>16}",
    ]
    for row in rows(runs):
        accuracy, forgetting = (
            f"{value.ours:>15}{value.paper:>8}{value.difference:>8}"
            for value in (row.accuracy, row.forgetting)
        )
        columns = f"{accuracy}{_later(row):>8}  {forgetting}"
        more = f"{row.before.ours:>16}{row.constant.ours:>16}"
        lines.append(f"{row.name:<28}{row.num_phases:>3}  {columns}{more}")
    return "\n".join([*lines, *notes(runs)])


def write_markdown(path: pathlib.Path, runs: Sequence[Run]) -> None:
    """Writes the table as Markdown."""
    three = ("ours", "paper", "difference")
    heads = [
        *("row", "N", "seeds"),
        *(f"average accuracy {part}" for part in (*three, "later")),
        *(f"forgetting {part}" for part in three),
        *("last accuracy", "before", "constant", "minutes", "hardware"),
    ]
    lines = [heads, ["---"] * len(heads)]
    for row in rows(runs):
        accuracy, forgetting = (
            [value.ours, value.paper, value.difference] for value in (row.accuracy, row.forgetting)
        )
        compared = [*accuracy, _later(row), *forgetting]
        minutes = "-" if row.minutes.mean is None else f"{row.minutes.mean:.0f}"
        seeds = ", ".join(map(str, row.seeds)) or "-"
        more = (row.last.ours, row.before.ours, row.constant.ours)
        more = (*more, minutes, row.hardware or "-")
        lines.append([row.name, str(row.num_phases), seeds, *compared, *more])
    below = [*notes(runs), "minutes: of the later phases, for runs share the model of phase 0"]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    write_text(path, text + "\n\n" + "".join(f"- {note}\n" for note in below))
