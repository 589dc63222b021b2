"""The table: figures over the seeds beside the paper's, on a terminal and as Markdown."""

import dataclasses
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluation.intervals import mean_and_interval
from mnemonics_tf.methods import METHODS
from mnemonics_tf.run.files import write_text
from tools.reproduce_cells import TIMES, TRAINED_AS, Cell
from tools.reproduce_flags import values
from tools.reproduce_results import Figures, Run, departures, refuse_other_data

#: the paper's exemplar learning to the letter
_LETTER = "configs/cifar100_mnemonics_literal.flags"


@dataclasses.dataclass(frozen=True)
class Value:
    """A figure over the seeds, with the paper's."""

    mean: float | None
    half_width: float | None = None
    published: float | None = None
    values: tuple[float, ...] = ()

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

    @property
    def paired(self) -> str:
        """Of a difference: the mean with its sign and interval; empty if there is none."""
        if self.mean is None:
            return ""
        return f"{self.mean:+.2f}{'' if self.half_width is None else f' ± {self.half_width:.2f}'}"

    @property
    def told(self) -> str:
        """Of a difference: `paired`, and in brackets each seed's where there are several."""
        each = f" ({', '.join(f'{one:+.2f}' for one in self.values)})" if self.values[1:] else ""
        return self.paired + each


@dataclasses.dataclass(frozen=True)
class Difference:
    """A row less another, seed by seed; without values where no seed is in both.

    Attributes:
        other: name of the other row.
        accuracy: average accuracy.
        last: accuracy after the last phase.
        forgetting: F.
    """

    other: str
    accuracy: Value
    last: Value
    forgetting: Value

    @property
    def in_words(self) -> str:
        """The other's name, and the difference to it."""
        return (
            f"less {self.other}: average accuracy {self.accuracy.told}, after the last phase "
            f"{self.last.told}, forgetting {self.forgetting.told}"
        )


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
        phases: accuracy after each phase.
        last: accuracy after the last phase.
        less_herding: it less the row with herding's exemplars as plain pixels.
        less_chosen: it less the row with the exemplars that its own began as, in a codec.
        minutes: without the training of phase 0, whose model runs share.
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
    phases: tuple[float, ...]
    last: Value
    less_herding: Difference
    less_chosen: Difference
    minutes: Value
    before: Value
    constant: Value
    hardware: str


def rows(runs: Sequence[Run], beside: Sequence[Run] = ()) -> list[Row]:
    """Returns the table of the runs that are done, a row for each cell and number of phases.

    Args:
        runs: whose rows are wanted.
        beside: those that rows may be compared with where they are done, wanted or not.

    Raises:
        UserError: if they learned from other data than each other.
    """
    refuse_other_data([*runs, *beside])
    groups: dict[tuple[Cell, int], dict[int, Figures]] = {}
    for run in dict.fromkeys([*runs, *beside]):
        group = groups.setdefault((run.cell, run.num_phases), {})
        if run.is_done():
            group[run.seed] = run.figures()
    dataset = runs[0].place.dataset if runs else ""
    return [
        _row(
            *(cell, num_phases, dataset, groups[cell, num_phases]),
            _difference(groups, cell, num_phases, cell.compares_with),
            _difference(groups, cell, num_phases, cell.begins_as),
        )
        for cell, num_phases in dict.fromkeys((run.cell, run.num_phases) for run in runs)
    ]


def _difference(
    groups: dict[tuple[Cell, int], dict[int, Figures]],
    cell: Cell,
    num_phases: int,
    wanted: Callable[[Cell], bool],
) -> Difference:
    """Returns a row less another.

    Args:
        groups: figures of all rows, by seed.
        cell: of the row.
        num_phases: N.
        wanted: whether a cell is that of the other row; the first one counts.

    Raises:
        UserError: if runs that are compared have other models of phase 0.
    """
    by_seed = groups[cell, num_phases]
    found = [other for other, theirs in groups if theirs == num_phases and wanted(other)]
    compared = groups[found[0], num_phases] if found else {}
    pairs = [(by_seed[seed], compared[seed]) for seed in by_seed if seed in compared]
    # Older results do not tell it.
    told = [seeds for pair in pairs if None not in (seeds := [one.phase0_seed for one in pair])]
    if any(mine != theirs for mine, theirs in told):
        raise UserError(
            f"{cell.name}: its runs and herding's of the same seed learned from other models of "
            "phase 0, and no difference of them tells what exemplars are worth: pass the folders "
            "(--output, --published) that belong together"
        )
    return Difference(
        found[0].name if found else "",
        _value([mine.average_accuracy - theirs.average_accuracy for mine, theirs in pairs]),
        _value([mine.last_accuracy - theirs.last_accuracy for mine, theirs in pairs]),
        _value([mine.forgetting - theirs.forgetting for mine, theirs in pairs]),
    )


def _row(
    cell: Cell,
    num_phases: int,
    dataset: str,
    by_seed: dict[int, Figures],
    less_herding: Difference,
    less_chosen: Difference,
) -> Row:
    """Returns the line of a cell.

    Args:
        cell: of the table.
        num_phases: N.
        dataset: value of --dataset.
        by_seed: figures of its runs that are done.
        less_herding: as in the row.
        less_chosen: as in the row.
    """
    figures = list(by_seed.values())
    paper = cell.published(dataset, num_phases)
    return Row(
        name=cell.name,
        num_phases=num_phases,
        seeds=tuple(by_seed),
        accuracy=_value([one.average_accuracy for one in figures], paper and paper.accuracy),
        later=paper and paper.authors_later,
        forgetting=_value([one.forgetting for one in figures], paper and paper.forgetting),
        phases=tuple(
            statistics.fmean(seeds)
            for seeds in zip(*(one.phase_accuracies for one in figures), strict=True)
        ),
        last=_value([one.last_accuracy for one in figures]),
        less_herding=less_herding,
        less_chosen=less_chosen,
        minutes=Value(
            statistics.fmean(one.own_seconds for one in figures) / 60 if figures else None
        ),
        before=_value([one.before_finetune for one in figures]),
        constant=_value([one.with_best_constant for one in figures]),
        hardware="; ".join(dict.fromkeys(one.hardware for one in figures if one.hardware)),
    )


def _value(values: Sequence[float | None], published: float | None = None) -> Value:
    known = values and None not in values
    if not known:
        return Value(None, published=published)
    return Value(*mean_and_interval(values), published, tuple(values))


def notes(runs: Sequence[Run]) -> list[str]:
    """Returns what a reader of the table must know."""
    lines = ["ours: mean over the seeds, with its 95% interval from two seeds on"]
    if any(run.cell.published(run.place.dataset, run.num_phases) for run in runs):
        lines.append(
            "paper: the conference version; later: what the authors reported afterwards (their "
            "README and, for LUCIR, a later paper)"
        )
    lines += [
        "less herding: average accuracy, that after the last phase or forgetting, less that of "
        "herding's exemplars as plain pixels with the same method, kernels and fine-tune, seed by "
        "seed",
        "before: average accuracy before the fine-tune of each phase",
        "constant: average accuracy of the classifier with the best constant on the logits of new "
        "classes, which is chosen on the test data: no result, but what a bias costs",
    ]
    if ceilings := {run.cell.images for run in runs if run.cell.ceiling}:
        others = [f"; ceiling {images}: {images} of a class" for images in sorted(ceilings - {0})]
        lines.append(
            f"ceiling: {TIMES} times the exemplars, of which an epoch replays as many as the "
            f"other rows have: what better exemplars could gain{''.join(others)}"
        )
    lines += [
        f"N = {num_phases}: the runs end with phase {last}, and their figures with them"
        for num_phases, last in sorted({(run.num_phases, run.last_phase) for run in runs})
        if last < num_phases
    ]
    lines += _recipes({run: run.figures().learning for run in runs if run.is_done()})
    for method in sorted({run.cell.method for run in runs} & set(TRAINED_AS)):
        lines.append(
            f"{method} trains exactly as {TRAINED_AS[method]} does: its rows are the runs of "
            f"{TRAINED_AS[method]}, read by the {METHODS[method].prediction_head} head"
        )
    return lines


def _recipes(learned: dict[Run, dict[str, Any]]) -> list[str]:
    """Returns in what the learning of exemplars departs from the letter: all rows', then some's.

    Args:
        learned: by run, the settings by which its exemplars learned; empty where they did not.
    """
    letter = values(flags.FlagValues().read_flags_from_files([f"--flagfile={_LETTER}"]))
    by_run = {run: departures(settings, letter) for run, settings in learned.items() if settings}
    if not by_run:
        return []
    first, *others = by_run.values()
    common = [one for one in first if all(one in other for other in others)]
    rows_of: dict[tuple[str, ...], dict[str, None]] = {}
    for run, found in by_run.items():
        own = tuple(one for one in found if one not in common)
        rows_of.setdefault(own, {})[run.cell.name] = None
    told = [f"{', '.join(names)}: {', '.join(own)}" for own, names in rows_of.items() if own]
    general = (
        f"learned exemplars (ours): unlike the letter of the paper, {_LETTER}, which is told in "
        f"brackets: {', '.join(common) or 'in some rows'}"
    )
    return [general, *told] if common or told else []


def _later(row: Row) -> str:
    return "-" if row.later is None else f"{row.later:.2f}"


def text_table(runs: Sequence[Run], beside: Sequence[Run] = ()) -> str:
    """Returns the table for a terminal, without the paper's columns as in Markdown.

    Args:
        runs: whose rows are wanted.
        beside: those that rows may be compared with, wanted or not.
    """
    table = rows(runs, beside)
    in_paper = _in_paper(table)
    heads = f"{'ours':>15}" + (f"{'paper':>8}{'diff.':>8}" if in_paper else "")
    later = f"{'later':>8}" if in_paper else ""
    width = max(28, *(len(row.name) + 1 for row in table))
    lines = [
        f"{'':<{width}}{'N':>3}  {'accuracy (%)':^{len(heads + later)}}  "
        f"{'forgetting (%)':^{len(heads)}}",
        f"{'':<{width}}{'':>3}  {heads}{later}  {heads}"
        f"{'before':>16}{'constant':>16}{'less herding':>16}",
    ]
    for row in table:
        accuracy, forgetting = (
            f"{value.ours:>15}" + (f"{value.paper:>8}{value.difference:>8}" if in_paper else "")
            for value in (row.accuracy, row.forgetting)
        )
        beside = f"{_later(row):>8}" if in_paper else ""
        more = f"{row.before.ours:>16}{row.constant.ours:>16}{row.less_herding.accuracy.paired:>16}"
        columns = f"{accuracy}{beside}  {forgetting}{more}"
        lines.append(f"{row.name:<{width}}{row.num_phases:>3}  {columns}".rstrip())
    return "\n".join([*lines, *notes(runs), *_less_chosen(table)])


def _less_chosen(table: Sequence[Row]) -> list[str]:
    """Returns what learning added to exemplars in a codec, for each row that has the figures."""
    return [
        f"{row.name} {row.less_chosen.in_words}"
        for row in table
        if row.less_chosen.accuracy.mean is not None
    ]


def _in_paper(table: Sequence[Row]) -> bool:
    return any(row.accuracy.published is not None for row in table)


def write_markdown(path: pathlib.Path, runs: Sequence[Run], beside: Sequence[Run] = ()) -> None:
    """Writes the table as Markdown; without the paper's columns where it has none of the rows.

    Args:
        path: of the file.
        runs: whose rows are wanted.
        beside: those that rows may be compared with, wanted or not.
    """
    table = rows(runs, beside)
    in_paper = _in_paper(table)
    columns = [_columns(row, in_paper) for row in table]
    heads = list(columns[0])
    lines = [heads, ["---"] * len(heads), *(list(one.values()) for one in columns)]
    below = [
        *notes(runs),
        *_less_chosen(table),
        "minutes: without the training of phase 0, whose model runs share",
    ]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    write_text(path, text + "\n\n" + "".join(f"- {note}\n" for note in below))


def _columns(row: Row, in_paper: bool) -> dict[str, str]:
    """Returns what Markdown says of a row, by the heads of its columns."""
    accuracy, forgetting = (
        {"ours": value.ours, "paper": value.paper, "difference": value.difference}
        if in_paper
        else {"ours": value.ours}
        for value in (row.accuracy, row.forgetting)
    )
    minutes = "-" if row.minutes.mean is None else f"{row.minutes.mean:.0f}"
    return {
        "row": row.name,
        "N": str(row.num_phases),
        "seeds": ", ".join(map(str, row.seeds)) or "-",
        **{f"average accuracy {part}": value for part, value in accuracy.items()},
        **({"average accuracy later": _later(row)} if in_paper else {}),
        **{f"forgetting {part}": value for part, value in forgetting.items()},
        "after each phase": " / ".join(f"{phase:.2f}" for phase in row.phases) or "-",
        "last accuracy": row.last.ours,
        "less herding": row.less_herding.accuracy.told or "-",
        "last less herding": row.less_herding.last.told or "-",
        "forgetting less herding": row.less_herding.forgetting.told or "-",
        "before": row.before.ours,
        "constant": row.constant.ours,
        "minutes": minutes,
        "hardware": row.hardware or "-",
    }
