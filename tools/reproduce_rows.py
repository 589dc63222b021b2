"""The rows of a table: figures over the seeds beside the paper's, and gains over other rows."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence

from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluation.intervals import mean_and_interval
from mnemonics_tf.reporting.published import Published
from tools.reproduce_cells import Cell
from tools.reproduce_results import Figures, Run, refuse_unlike


@dataclasses.dataclass(frozen=True)
class Value:
    """A figure over the seeds, with the paper's."""

    mean: float | None
    half_width: float | None = None
    published: float | None = None
    values: tuple[float, ...] = ()

    @property
    def ours(self) -> str:
        """The mean, and from three seeds on the half width of its 95% interval."""
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
        """Ours minus the paper's."""
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
    """A row minus another, seed by seed; without values where no seed is in both.

    Attributes:
        other: name of the other row.
        accuracy: average accuracy.
        last: accuracy after the last phase.
        forgetting: F.
        other_head: average accuracy by the head that the row is not read by.
    """

    other: str
    accuracy: Value
    last: Value
    forgetting: Value
    other_head: Value

    @property
    def in_words(self) -> str:
        """The other's name, and the difference to it."""
        return (
            f"over {self.other}: average accuracy {self.accuracy.told}, after the last phase "
            f"{self.last.told}, forgetting {self.forgetting.told}, average by the other head "
            f"{self.other_head.told}"
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
        other_head: average accuracy by the head that the row is not read by.
        over_herding: it minus the row with herding's exemplars as plain pixels.
        over_chosen: it minus the row with the exemplars that its own began as, in a codec.
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
    other_head: Value
    over_herding: Difference
    over_chosen: Difference
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
        UserError: if they learned from other data than each other, or by other settings than the
            rows'.
    """
    refuse_unlike([*runs, *beside])
    groups: dict[tuple[Cell, int], dict[int, Figures]] = {}
    for run in dict.fromkeys([*runs, *beside]):
        group = groups.setdefault((run.cell, run.num_phases), {})
        if run.is_done():
            group[run.seed] = run.figures()
    papers = {(run.cell, run.num_phases): run.paper() for run in runs}
    return [
        _row(
            *(cell, num_phases, papers[cell, num_phases], groups[cell, num_phases]),
            _difference(groups, cell, num_phases, cell.compares_with),
            _difference(groups, cell, num_phases, cell.begins_as),
        )
        for cell, num_phases in papers
    ]


def _difference(
    groups: dict[tuple[Cell, int], dict[int, Figures]],
    cell: Cell,
    num_phases: int,
    wanted: Callable[[Cell], bool],
) -> Difference:
    """Returns a row minus another.

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
    # Older results do not tell all of it.
    told = [one for pair in pairs for one in zip(*(each.phase0 for each in pair), strict=True)]
    if any(None not in one and one[0] != one[1] for one in told):
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
        _value([mine.other_head - theirs.other_head for mine, theirs in pairs]),
    )


def _row(
    cell: Cell,
    num_phases: int,
    paper: Published | None,
    by_seed: dict[int, Figures],
    over_herding: Difference,
    over_chosen: Difference,
) -> Row:
    """Returns the line of a cell.

    Args:
        cell: of the table.
        num_phases: N.
        paper: its figures, if it has some.
        by_seed: figures of its runs that are done.
        over_herding: as in the row.
        over_chosen: as in the row.
    """
    figures = list(by_seed.values())
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
        other_head=_value([one.other_head for one in figures]),
        over_herding=over_herding,
        over_chosen=over_chosen,
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
