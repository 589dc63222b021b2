"""The table on a terminal and as Markdown, with what a reader of it must know."""

import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from mnemonics_tf.evaluation.intervals import FEWEST_FOR_INTERVAL
from mnemonics_tf.methods import METHODS
from mnemonics_tf.run.files import write_text
from tools.reproduce_cells import TIMES, TRAINED_AS
from tools.reproduce_flags import values
from tools.reproduce_results import Run, departures
from tools.reproduce_rows import Row, rows

#: the paper's exemplar learning to the letter
_LETTER = "configs/cifar100_mnemonics_literal.flags"


def notes(runs: Sequence[Run]) -> list[str]:
    """Returns what a reader of the table must know."""
    lines = [
        f"ours: mean over the seeds, with its 95% interval from {FEWEST_FOR_INTERVAL} seeds on"
    ]
    if any(run.paper() for run in runs):
        lines.append(
            "paper: the conference version; later: what the authors reported afterwards (their "
            "README and, for LUCIR, a later paper)"
        )
    lines += [
        "over herding: average accuracy, accuracy after the last phase or forgetting, minus that "
        "of herding's exemplars as plain pixels with the same method, kernels and fine-tune, seed "
        "by seed",
        "other head: average accuracy by the nearest mean of exemplars, or by the classifier where "
        "the method is read by the nearest mean",
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
        f"{'before':>16}{'constant':>16}{'over herding':>16}",
    ]
    for row in table:
        accuracy, forgetting = (
            f"{value.ours:>15}" + (f"{value.paper:>8}{value.difference:>8}" if in_paper else "")
            for value in (row.accuracy, row.forgetting)
        )
        beside = f"{_later(row):>8}" if in_paper else ""
        more = f"{row.before.ours:>16}{row.constant.ours:>16}{row.over_herding.accuracy.paired:>16}"
        columns = f"{accuracy}{beside}  {forgetting}{more}"
        lines.append(f"{row.name:<{width}}{row.num_phases:>3}  {columns}".rstrip())
    return "\n".join([*lines, *notes(runs), *_over_chosen(table)])


def _over_chosen(table: Sequence[Row]) -> list[str]:
    """Returns what learning added to exemplars in a codec, for each row that has the figures."""
    return [
        f"{row.name} {row.over_chosen.in_words}"
        for row in table
        if row.over_chosen.accuracy.mean is not None
    ]


def _in_paper(table: Sequence[Row]) -> bool:
    return any(row.accuracy.published is not None for row in table)


def write_markdown(path: pathlib.Path, runs: Sequence[Run], beside: Sequence[Run] = ()) -> None:
    """Writes the table as Markdown, with what its columns mean.

    Rows that have neither a run nor a figure of the paper are named below it. The paper's columns
    are left out where it has none of the rows.

    Args:
        path: of the file.
        runs: whose rows are wanted.
        beside: those that rows may be compared with, wanted or not.
    """
    table = rows(runs, beside)
    in_paper = _in_paper(table)
    told = [row for row in table if row.seeds or row.accuracy.published is not None]
    columns = [_columns(row, in_paper) for row in told]
    heads = list(_columns(table[0], in_paper))
    lines = [heads, ["---"] * len(heads), *(list(one.values()) for one in columns)]
    below = [
        *notes(runs),
        *_over_chosen(table),
        "minutes: without the training of phase 0, whose model runs share",
    ]
    if missing := [row.name for row in table if row not in told]:
        below.append(f"not run: {', '.join(missing)}")
    title = f"# Test accuracy on {runs[0].place.dataset}, in percent\n\n"
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    write_text(path, title + text + "\n\n" + "".join(f"- {note}\n" for note in below))


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
        "other head": row.other_head.ours,
        "over herding": row.over_herding.accuracy.told or "-",
        "last over herding": row.over_herding.last.told or "-",
        "forgetting over herding": row.over_herding.forgetting.told or "-",
        "other head over herding": row.over_herding.other_head.told or "-",
        "before": row.before.ours,
        "constant": row.constant.ours,
        "minutes": minutes,
        "hardware": row.hardware or "-",
    }
