"""The tables of a report, once for HTML and Markdown."""

import dataclasses
import itertools
import json
import math
from collections.abc import Sequence
from typing import Any

from mnemonics_tf.errors import printable
from mnemonics_tf.evaluation.evaluator import HEADS
from mnemonics_tf.evaluation.intervals import FEWEST_FOR_INTERVAL, Estimate, as_number
from mnemonics_tf.exemplars.budget import Budget
from mnemonics_tf.monitoring.progress import duration
from mnemonics_tf.reporting.groups import Group
from mnemonics_tf.reporting.published import departures_of_settings, published_values
from mnemonics_tf.reporting.runs import seeds_in_words

#: for a figure that does not exist
NOTHING = "–"


_SEVERAL_SEEDS = (
    f"±: 95% interval of the mean over seeds (Student's t), from {FEWEST_FOR_INTERVAL} seeds on. "
    "sd: standard deviation over seeds."
)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        caption: what it shows.
        header: of the columns; the first column holds the rows' headers.
        rows: cells, as many as the header has.
        notes: below it.
        shaded_from: first column of percentages that a page shades by their size; None: none.
    """

    caption: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: tuple[str, ...] = ()
    shaded_from: int | None = None


def percent(estimate: Estimate, signed: bool = False) -> str:
    """Returns a mean with its interval, and on a line of its own its standard deviation.

    Args:
        estimate: of fractions; shown as percentages to two places.
        signed: whether a plus stands before what is positive.
    """
    if math.isnan(estimate.mean):
        return NOTHING
    sign = "+" if signed else ""
    text = f"{100 * estimate.mean:{sign}.2f}"
    if estimate.half_width is not None:
        text += f" ± {100 * estimate.half_width:.2f}"
    if estimate.deviation is not None:
        text += f"\n(sd {100 * estimate.deviation:.2f})"
    return text


def summary(groups: Sequence[Group]) -> Table:
    """Returns average accuracy and forgetting of both heads, by group."""
    rows: list[tuple[str, ...]] = []
    for group in groups:
        for head in HEADS:
            rows.append(
                (
                    group.name,
                    str(group.first.protocol["num_phases"]),
                    str(len(group.runs)),
                    head + "*" * (head == group.head),
                    percent(group.metric(head, "average_accuracy")),
                    percent(group.accuracies(head)[-1]),
                    percent(group.metric(head, "forgetting")),
                    percent(group.metric(head, "mean_forgetting")),
                    percent(group.metric(head, "backward_transfer")),
                )
            )
    return Table(
        "Average accuracy over all phases, accuracy after the last one, and forgetting (percent)",
        ("run", "N", "seeds", "head", "average", "last", "F", "mean forgetting", "BWT"),
        rows,
        (
            "* the head that the method's own paper predicts with. Average: mean over the phases "
            "of the accuracy on all classes seen by then. F: what the classes of phase 0 lost "
            "between phase 0 and the last phase. Mean forgetting: what each earlier group of "
            "classes lost from its best, on average (Chaudhry et al., 2018). BWT: backward "
            "transfer, how each changed since it was learned (Lopez-Paz and Ranzato, 2017). "
            f"{_SEVERAL_SEEDS}",
        ),
    )


#: metric -> what a table calls it
_COMPARED = {"average_accuracy": "average", "last_accuracy": "last", "forgetting": "F"}


def paired(groups: Sequence[Group]) -> Table | None:
    """Returns differences from the first group, seed by seed; None where none can be formed.

    Two runs of one seed share their initialisation and batches: their difference varies less than
    either. Where they do not, as one took over another's phase 0, a warning says so.
    """
    first, rows = groups[0], []
    heads = [first.head] + [head for head in HEADS if head != first.head]
    for group in groups[1:]:
        seeds = [run.seeds for run, _ in first.pairs(group)]
        if not seeds:
            continue
        for head in heads:
            cells = []
            for name in _COMPARED:
                theirs, ours = (_by_seed(g, head, name) for g in (first, group))
                differences = Estimate(tuple(ours[seed] - theirs[seed] for seed in seeds))
                each = ", ".join(f"{100 * value:+.2f}" for value in differences.values)
                several = len(seeds) > 1 and not math.isnan(differences.mean)
                cells.append(percent(differences, signed=True) + f"\n{each}" * several)
            numbers = ", ".join(map(seeds_in_words, seeds))
            rows.append((group.name, head, numbers, *cells))
    if not rows:
        return None
    return Table(
        f"Difference from {first.name}, seed by seed (percentage points)",
        ("run", "head", "seeds", *_COMPARED.values()),
        rows,
        (
            "Of each seed the run's figure minus that of the first run: mean, then each seed. "
            f"{_SEVERAL_SEEDS}",
        ),
    )


def _by_seed(group: Group, head: str, metric: str) -> dict[tuple[Any, ...], float]:
    values = group.metric(head, metric).values
    return {run.seeds: value for run, value in zip(group.runs, values, strict=True)}


def beside_the_paper(groups: Sequence[Group]) -> Table | None:
    """Returns ours beside the conference table and what the authors gave later; None if nothing."""
    found = [
        (group, row)
        for group in groups
        if _has_the_papers_phases(group)
        and (row := published_values(*_place(group), group.choices)) is not None
        and not math.isnan(group.metric(group.head, "average_accuracy").mean)
    ]
    if not found:
        return None
    later = any(row.authors_later for _, row in found)
    rows, notes = [], []
    for group, row in found:
        accuracy = group.metric(group.head, "average_accuracy")
        forgetting = group.metric(group.head, "forgetting")
        cells = [percent(accuracy), *_beside(accuracy, row.accuracy)]
        cells += _beside(accuracy, row.authors_later) * later
        cells += [percent(forgetting), *_beside(forgetting, row.forgetting)]
        rows.append((group.name, str(_place(group)[1]), *cells))
        settings = departures_of_settings(_place(group)[0], group.first.settings)
        departures = [*row.departures, *settings, *_memory(group)]
        if departures:
            notes.append(f"{group.name}: unlike the paper's row, {'; '.join(departures)}.")
    about_later = (
        "The authors' later figures: LwF and iCaRL from their README, of a single-level code whose "
        "baselines lack weight transfer, with a cosine classifier and 2,000 exemplars in all; "
        "LUCIR as PASS++ cites them."
    )
    return Table(
        "Beside the published figures (percent)",
        (
            *("run", "N", "average, ours", "paper", "difference"),
            *(("authors, later", "difference") * later),
            *("F, ours", "paper", "difference"),
        ),
        rows,
        (
            "Paper: Tables 1 and 2 of the conference version. Runs that have no row there are left "
            f"out. {about_later * later}".strip(),
            *notes,
        ),
    )


#: what the paper keeps in all experiments
_PAPERS_BUDGET = Budget(per_class=20).in_words


def _has_the_papers_phases(group: Group) -> bool:
    """Whether a run learned half of the classes, the rest in equal phases, and no others since."""
    run = group.first
    seen = [record["num_seen"] for record in run.phases]
    sizes = {later - earlier for earlier, later in itertools.pairwise(seen)}
    of_the_paper = 2 * seen[0] == seen[-1] and len(sizes) == 1
    return run.is_finished and of_the_paper and not any("learned" in r for r in run.phases)


def _place(group: Group) -> tuple[str, int]:
    protocol = group.first.protocol
    return protocol["dataset"], protocol["num_phases"]


def _beside(ours: Estimate, theirs: float | None) -> list[str]:
    """Returns a published figure, and how far ours is from it."""
    if theirs is None:
        return [NOTHING, NOTHING]
    return [f"{theirs:.2f}", f"{100 * ours.mean - theirs:+.2f}"]


def _memory(group: Group) -> list[str]:
    """Returns in what the memory departs from the paper's 20 exemplars of a class."""
    budget = group.first.budget
    return [] if budget == _PAPERS_BUDGET else [f"a memory of {budget}, not {_PAPERS_BUDGET}"]


def by_phase(group: Group, head: str) -> Table:
    """Returns one group's accuracies after each phase, on all classes and by class group."""
    matrices = [
        [record["heads"][head]["group_accuracies"] for record in run.phases] for run in group.runs
    ]
    rows: list[tuple[str, ...]] = []
    for i, num_seen in enumerate(group.num_classes):
        means = [
            Estimate(tuple(map(as_number, (matrix[i][k] for matrix in matrices)))).mean
            for k in range(i + 1)
        ]
        cells = [NOTHING if math.isnan(mean) else f"{100 * mean:.1f}" for mean in means]
        cells += [""] * (len(group.num_classes) - i - 1)
        rows.append((str(i), str(num_seen), percent(group.accuracies(head)[i]), *cells))
    return Table(
        f"{group.name}, head {head}: accuracy after each phase (percent)",
        ("phase", "classes", "all", *(f"group {i}" for i in range(len(group.num_classes)))),
        rows,
        ("Group i: the test images of the classes that phase i taught.",),
        shaded_from=3,
    )


def seconds_by_stage(group: Group) -> dict[str, float]:
    """Returns the mean over seeds of the time spent in each stage, summed over the phases."""
    totals: dict[str, float] = {}
    for run in group.runs:
        for record in run.phases:
            for stage, seconds in record.get("seconds", {}).items():
                totals[stage] = totals.get(stage, 0.0) + seconds / len(group.runs)
    return totals


def times(groups: Sequence[Group]) -> Table | None:
    """Returns the time that stages took, or None where no run tells."""
    by_group = {group.index: seconds_by_stage(group) for group in groups}
    stages = list(dict.fromkeys(stage for stages in by_group.values() for stage in stages))
    stages = [s for s in stages if any(round(times.get(s, 0)) for times in by_group.values())]
    if not stages:
        return None
    rows: list[tuple[str, ...]] = []
    for group in groups:
        mine = by_group[group.index]
        cells = [duration(mine[stage]) if stage in mine else NOTHING for stage in stages]
        rows.append((group.name, *cells, duration(sum(mine.values()))))
    return Table("Time by stage, over all phases", ("run", *stages, "all"), rows)


def learning(group: Group) -> Table | None:
    """Returns how exemplars learned and moved, by phase, in the group's first run; None if none."""
    rows: list[tuple[str, ...]] = []
    for record in group.first.phases:
        for stage in ("exemplars", "adjust"):
            figures = record.get("stages", {}).get(stage)
            if isinstance(figures, dict):
                rows.append((str(record["phase"]), stage, *_learning_cells(figures)))
    if not rows:
        return None
    return Table(
        f"{group.name}, {_seed_text(group)}: how exemplars learned",
        (
            *("phase", "stage", "exemplars", "steps", "steps kept", "meta loss"),
            *("held-out accuracy", "pixels moved", "features moved", "margin", "at pixel limits"),
        ),
        rows,
        (
            "Exemplars: new ones (Eq. 9); adjust: old ones (Eq. 10). Pixels: root mean square in "
            "grey levels of 255. Features: distance of L2-normalised features, at most 2. Margin: "
            "distance to the nearest decision boundary in feature space. Held-out accuracy: of a "
            "classifier on the exemplars' features, or of a rehearsal (--validation), as they "
            "began and as they are stored; it decides how many steps are kept.",
        ),
    )


def _seed_text(group: Group) -> str:
    return f"seed {seeds_in_words(group.first.seeds)}"


def _held_out(scores: Any) -> str:
    """Returns the held-out accuracies of the start and of what is stored."""
    if not isinstance(scores, dict):
        return NOTHING
    stored = scores.get("stored", scores.get("uint8"))  # its name in earlier results
    named = [scores.get("start"), stored]
    return " → ".join(
        f"{score:.1%}" if isinstance(score, (int, float)) else NOTHING for score in named
    )


def _learning_cells(figures: dict[str, Any]) -> tuple[str, ...]:
    def number(name: str, form: str) -> str:
        value = figures.get(name)
        return format(value, form) if isinstance(value, (int, float)) else NOTHING

    losses = figures.get("meta_loss")
    return (
        number("count", "d") if isinstance(figures.get("count"), int) else NOTHING,
        number("steps", "d") if isinstance(figures.get("steps"), int) else NOTHING,
        number("steps_kept", "d") if isinstance(figures.get("steps_kept"), int) else NOTHING,
        f"{losses[0]:.3f} → {losses[-1]:.3f}" if isinstance(losses, list) and losses else NOTHING,
        _held_out(figures.get("held_out_accuracy")),
        number("pixel_distance", ".1f"),
        number("feature_distance", ".3f"),
        f"{number('margin_start', '.2f')} → {number('margin_end', '.2f')}",
        number("clipped_share", ".1%"),
    )


def runs(groups: Sequence[Group]) -> Table:
    """Returns where the runs behind each name lie."""
    rows: list[tuple[str, ...]] = [
        (group.name, seeds_in_words(run.seeds), str(len(run.phases)), printable(run.path))
        for group in groups
        for run in group.runs
    ]
    return Table("Runs", ("run", "seed", "phases", "path"), rows)


def fingerprints(groups: Sequence[Group]) -> Table:
    """Returns the protocol of every group with the hashes of its runs."""
    keys = list(dict.fromkeys(key for group in groups for key in group.first.protocol))
    rows: list[tuple[str, ...]] = []
    for group in groups:
        protocol = group.first.protocol
        seeds = ", ".join(seeds_in_words(run.seeds) for run in group.runs)
        hashes = ", ".join(str(run.contents["protocol"].get("hash", NOTHING)) for run in group.runs)
        rows.append((group.name, *(str(protocol.get(key, NOTHING)) for key in keys), seeds, hashes))
    return Table(
        "The protocol's fingerprint",
        ("run", *keys, "seeds", "hash, a seed"),
        rows,
        ("Runs can be compared where all but the seed, and the hash that covers it, agree.",),
    )


def settings(groups: Sequence[Group]) -> Table:
    """Returns the settings that decide results, those that differ first."""
    settings = [group.first.settings | group.first.learned_settings for group in groups]
    names = list(dict.fromkeys(name for values in settings for name in values))
    texts = {name: [json.dumps(values.get(name)) for values in settings] for name in names}
    names.sort(key=lambda name: len(set(texts[name])) == 1)
    return Table(
        "Settings, those that differ first",
        ("setting", *(group.name for group in groups)),
        [(name, *texts[name]) for name in names],
    )


def machines(groups: Sequence[Group]) -> Table:
    """Returns what ran each group."""
    rows: list[tuple[str, ...]] = []
    for group in groups:
        packages = group.first.contents.get("packages") or {}
        hardware = group.first.contents.get("hardware") or {}
        versions = ", ".join(f"{name} {version}" for name, version in packages.items())
        facts = ", ".join(f"{name}: {_listed(value)}" for name, value in hardware.items())
        rows.append((group.name, facts or NOTHING, versions or NOTHING))
    return Table("Machine and packages", ("run", "machine", "packages"), rows)


def _listed(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
