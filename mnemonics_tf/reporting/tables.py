"""The tables of a report, once for HTML and Markdown."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from mnemonics_tf.evaluation.evaluator import HEADS
from mnemonics_tf.evaluation.intervals import mean_and_interval
from mnemonics_tf.monitoring.progress import duration
from mnemonics_tf.reporting.published import EPOCHS, published_values
from mnemonics_tf.reporting.runs import Group

#: for a figure that does not exist
NOTHING = "–"


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


def percent(value: tuple[float, float | None], factor: float = 100) -> str:
    """Returns a mean with its interval, times `factor`, to two places."""
    mean, half_width = value
    text = f"{factor * mean:.2f}"
    return text if half_width is None else f"{text} ± {factor * half_width:.2f}"


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
            "±: 95% interval of the mean over seeds "
            "(Student's t).",
        ),
    )


def beside_the_paper(groups: Sequence[Group]) -> Table:
    """Returns ours beside the conference table and the authors' README."""
    rows: list[tuple[str, ...]] = []
    notes = []
    for group in groups:
        run = group.first
        dataset, num_phases = run.protocol["dataset"], run.protocol["num_phases"]
        row = published_values(dataset, num_phases, group.choices) if run.is_finished else None
        accuracy = group.metric(group.head, "average_accuracy")
        forgetting = group.metric(group.head, "forgetting")
        if row:
            ours, lost = 100 * accuracy[0], 100 * forgetting[0]
            readme = row.readme
            published: tuple[str, ...] = (
                f"{row.accuracy:.2f}",
                f"{ours - row.accuracy:+.2f}",
                f"{readme:.2f}" if readme else NOTHING,
                f"{ours - readme:+.2f}" if readme else NOTHING,
                percent(forgetting),
                f"{row.forgetting:.2f}",
                f"{lost - row.forgetting:+.2f}",
            )
            departures = [*row.departures, *_schedule(group)]
            if departures:
                notes.append(f"{group.name}: unlike the paper's row, {'; '.join(departures)}.")
        else:
            published = (*[NOTHING] * 4, percent(forgetting), NOTHING, NOTHING)
        rows.append((group.name, str(num_phases), percent(accuracy), *published))
    return Table(
        "Beside the published figures (percent)",
        (
            *("run", "N", "average, ours", "paper", "difference"),
            *("authors' README", "difference", "F, ours", "paper", "difference"),
        ),
        rows,
        (
            "Paper: Tables 1 and 2 of the conference version. The authors' README reports a "
            "single-level code whose baselines lack weight transfer.",
            *notes,
        ),
    )


def _schedule(group: Group) -> list[str]:
    """Returns in what the schedule departs from the paper's."""
    run = group.first
    epochs = EPOCHS.get(run.protocol["dataset"])
    names = ("base_epochs", "epochs", "finetune_epochs")
    ours = tuple(run.settings[name] for name in names)
    if not epochs or ours == epochs or (ours[2] == 0 and ours[:2] == epochs[:2]):
        return []
    text = "/".join(map(str, ours))
    return [f"{text} epochs (phase 0, later, fine-tune), not {'/'.join(map(str, epochs))}"]


def by_phase(group: Group, head: str) -> Table:
    """Returns one group's accuracies after each phase, on all classes and by class group."""
    matrices = [
        [record["heads"][head]["group_accuracies"] for record in run.phases] for run in group.runs
    ]
    rows: list[tuple[str, ...]] = []
    for i, num_seen in enumerate(group.num_classes):
        cells = [
            f"{100 * mean_and_interval([matrix[i][k] for matrix in matrices])[0]:.1f}"
            for k in range(i + 1)
        ]
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
            "classifier on the exemplars' features, as they began, learned and stored; it decides "
            "how many steps are kept.",
        ),
    )


def _seed_text(group: Group) -> str:
    return f"seed {group.first.seeds[0]}"


def _held_out(scores: Any) -> str:
    """Returns the held-out accuracies of the start, of the floats and of what is stored."""
    if not isinstance(scores, dict):
        return NOTHING
    named = [scores.get(name) for name in ("start", "float", "uint8")]
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


def fingerprints(groups: Sequence[Group]) -> Table:
    """Returns the protocol of every group with the hashes of its runs."""
    keys = list(dict.fromkeys(key for group in groups for key in group.first.protocol))
    rows: list[tuple[str, ...]] = []
    for group in groups:
        protocol = group.first.protocol
        seeds = ", ".join(str(run.seeds[0]) for run in group.runs)
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
    settings = [group.first.settings for group in groups]
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
