"""The report as one HTML page that needs nothing beside itself."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from mnemonics_tf.errors import counted
from mnemonics_tf.evaluation.evaluator import HEADS
from mnemonics_tf.evaluation.intervals import FEWEST_FOR_INTERVAL, Estimate
from mnemonics_tf.reporting import charts, tables
from mnemonics_tf.reporting.charts import Series, escape
from mnemonics_tf.reporting.drift import pixel_drift
from mnemonics_tf.reporting.embedding import Embedding
from mnemonics_tf.reporting.groups import Group
from mnemonics_tf.reporting.memories import memories
from mnemonics_tf.reporting.names import short
from mnemonics_tf.reporting.pictures import galleries
from mnemonics_tf.reporting.style import STYLE
from mnemonics_tf.reporting.tables import Table

_SCATTER = 300


@dataclasses.dataclass(frozen=True)
class Embedded:
    """What the page says of the t-SNE.

    Attributes:
        run_name: whose model and exemplars it shows.
        pictures: none where they could not be made.
        reason: why there are none.
    """

    run_name: str
    pictures: Sequence[Embedding]
    reason: str = ""


def page(groups: Sequence[Group], warnings: Sequence[str], embedded: Embedded) -> str:
    """Returns the page.

    Args:
        groups: of the runs.
        warnings: against comparing them.
        embedded: the t-SNE.
    """
    names = "; ".join(group.name for group in groups)
    published = tables.beside_the_paper(groups)
    sections = {
        "Accuracy after each phase": _accuracy(groups),
        "Forgetting": _forgetting(groups),
        **({"Beside the published figures": _table(published)} if published else {}),
        "Memory": _memories(groups),
        "Exemplars by class": galleries(groups),
        "How exemplars change": _exemplars(groups),
        "Exemplars over their class data (t-SNE)": _embeddings(embedded),
        "Time by stage": _times(groups),
        "Runs, protocol, settings, machines": _facts(groups),
    }
    links = "".join(
        f'<li><a href="#{_anchor(title)}">{escape(title)}</a></li>' for title in sections
    )
    content = "".join(
        f'<section id="{_anchor(title)}"><h2>{escape(title)}</h2>{section}</section>\n'
        for title, section in sections.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>Class-incremental runs: {escape(names)}</title><style>{STYLE}</style></head>\n"
        "<body><header><h1>Class-incremental runs</h1>"
        f"<p>{escape(_subtitle(groups))}</p><nav><ul>{links}</ul></nav></header>\n"
        f"<main>{_warnings(warnings)}{content}</main></body></html>\n"
    )


def _anchor(title: str) -> str:
    return title.split(",")[0].split("(")[0].strip().lower().replace(" ", "-")


def _subtitle(groups: Sequence[Group]) -> str:
    """Returns how much there is to see, and of what."""
    count = sum(len(group.runs) for group in groups)
    of = f" in {len(groups)} groups of the same settings" if count > len(groups) else ""
    courses = "; ".join(title for title, _ in _by_course(groups))
    return f"{count} run{'s' * (count > 1)}{of}: {courses}"


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in warnings)
    return (
        f'<div class="warnings" role="note"><strong>Before comparing</strong><ul>{items}</ul></div>'
    )


def _table(table: Table, kind: str = "") -> str:
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in table.header)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(_cell(table, column, cell) for column, cell in enumerate(row[1:], start=1))
        + "</tr>"
        for row in table.rows
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    # The caption stands outside of what scrolls: it stays in sight whatever is scrolled to.
    return (
        f'<p class="caption">{escape(table.caption)}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.caption)}">'
        f'<table class="{kind}" aria-label="{escape(table.caption)}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
    )


def _cell(table: Table, column: int, text: str) -> str:
    shade = ""
    is_figure = text not in ("", tables.NOTHING)
    if is_figure and table.shaded_from is not None and column >= table.shaded_from:
        shade = f' style="background:rgba(var(--heat),{0.45 * float(text) / 100:.3f})"'
    first, *others = text.split("\n")
    smaller = "".join(f"<small>{escape(line)}</small>" for line in others)
    return f"<td{shade}>{escape(first)}{smaller}</td>"


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def _figure(caption: str, content: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{content}</figure>"


def _legend(groups: Sequence[Group]) -> str:
    return charts.legend([(group.index, group.name) for group in groups])


def _by_course(groups: Sequence[Group]) -> list[tuple[str, list[Group]]]:
    """Returns groups that learn the same classes in the same phases, and what is one panel's title.

    That is data set and N, what the memory may hold where all of them may hold the same, and what
    tells their course from others whose title would be equal.
    """
    panels: dict[str, list[Group]] = {}
    for group in groups:
        panels.setdefault(str(sorted(group.first.course.items())), []).append(group)
    alike: dict[str, list[list[Group]]] = {}
    for members in panels.values():
        alike.setdefault(_panel_title(members), []).append(members)
    return [
        (", ".join([title, *_otherwise(members, panels_alike)]), members)
        for title, panels_alike in alike.items()
        for members in panels_alike
    ]


def _otherwise(groups: Sequence[Group], panels: Sequence[Sequence[Group]]) -> list[str]:
    """Returns what the groups of a panel learn otherwise than those of other panels."""
    course, courses = groups[0].first.course, [members[0].first.course for members in panels]
    return [
        f"{name} = {short(course.get(name))}"
        for name in sorted(set().union(*courses))
        if len({str(other.get(name)) for other in courses}) > 1
    ]


def _panel_title(groups: Sequence[Group]) -> str:
    protocol = groups[0].first.protocol
    budgets = {group.first.budget for group in groups}
    memory = f", {budgets.pop()}" if len(budgets) == 1 else ""
    return f"{protocol['dataset']}, N = {protocol['num_phases']}{memory}"


def _series(group: Group, figures: Sequence[Estimate]) -> Series:
    """Returns a group's line: with a ribbon, or where seeds are too few for one with each seed.

    What was not tested has no point.
    """
    points = zip(group.num_classes, figures, strict=True)
    tested = [(classes, figure) for classes, figure in points if not math.isnan(figure.mean)]
    half_widths = [f.half_width for _, f in tested if f.half_width is not None]
    ribbon = None
    members: list[list[float]] = []
    if len(half_widths) == len(tested):
        ribbon = [100 * width for width in half_widths]
    elif len(group.runs) > 1:
        members = [
            list(run) for run in zip(*(100 * np.array(f.values) for _, f in tested), strict=True)
        ]
    classes, means = [c for c, _ in tested], [100 * figure.mean for _, figure in tested]
    return Series(group.index, group.name, classes, means, ribbon, members)


def _lines(series: Sequence[Series], x_label: str, y_label: str, description: str) -> str:
    """Returns a chart of what was tested."""
    drawn = [line for line in series if line.y]
    if not drawn:
        return "<p>Not tested.</p>"
    return charts.line_chart(drawn, x_label, y_label, description)


def _accuracy(groups: Sequence[Group]) -> str:
    figures = []
    for course, members in _by_course(groups):
        for head in HEADS:
            chart = _lines(
                [_series(group, group.accuracies(head)) for group in members],
                "Number of classes",
                "Accuracy on all seen classes (%)",
                f"Lines of accuracy against the number of classes, head {head}, {course}; "
                "the figures are in the tables below.",
            )
            figures.append(_figure(f"{course}: head {head}", chart))
    by_phase = "".join(_table(tables.by_phase(group, head)) for group in groups for head in HEADS)
    details = _details("Phase by phase, on each group of classes", by_phase)
    differences = tables.paired(groups)
    return (
        f'{_legend(groups)}<div class="figures">{"".join(figures)}</div>{_several_seeds(groups)}'
        f"{_table(tables.summary(groups))}{_table(differences) if differences else ''}{details}"
    )


def _several_seeds(groups: Sequence[Group]) -> str:
    """Returns how the charts show several seeds, if they have to."""
    counts = {len(group.runs) for group in groups}
    parts = []
    if max(counts) >= FEWEST_FOR_INTERVAL:
        parts.append("Ribbons: 95% intervals of the mean over seeds.")
    if counts & set(range(2, FEWEST_FOR_INTERVAL)):
        parts.append("Thin lines: single seeds, where they are too few for an interval.")
    return f'<p class="soft">{" ".join(parts)}</p>' if parts else ""


def _forgetting(groups: Sequence[Group]) -> str:
    figures = []
    for course, members in _by_course(groups):
        for head in HEADS:
            chart = _lines(
                [_series(group, group.base_accuracies(head)) for group in members],
                "Number of classes",
                "Accuracy on phase 0's classes (%)",
                f"Lines of the accuracy on the classes of phase 0 against the number of classes, "
                f"head {head}, {course}; the figures are in the tables above, column group 0.",
            )
            figures.append(_figure(f"{course}: head {head}", chart))
    return (
        "<p>What remains of phase 0's classes: the drop from the first to the last point is F.</p>"
        f'{_legend(groups)}<div class="figures">{"".join(figures)}</div>'
    )


def _embeddings(embedded: Embedded) -> str:
    if not embedded.pictures:
        return f"<p>Left out: {escape(embedded.reason)}</p>"
    parts = [
        f"<p>{escape(embedded.run_name)}. Pale dots: training images of the class; marks: "
        "exemplars. Each phase is one embedding of one model's features, so that the ways of "
        "choosing can be compared: random and herding are chosen in this space unless they are "
        "what the run itself keeps.</p>"
    ]
    for picture in embedded.pictures:
        parts.append(f"<h3>Phase {picture.phase}: {counted(picture.num_seen, 'class')} known</h3>")
        parts.append(charts.legend(list(enumerate(picture.class_names)), lines=False))
        parts.append('<div class="figures">')
        for k, (name, exemplars) in enumerate(picture.exemplars.items()):
            parts.append(_figure(name, _scatter(picture, name, exemplars, define=k == 0)))
        parts.append("</div>")
    return "".join(parts)


def _scatter(picture: Embedding, name: str, exemplars, define: bool) -> str:
    """Returns one panel; the first of a phase defines the class data, the others use it."""
    identifier = f"data-{picture.phase}"
    if define:
        dots = "".join(
            f'<path class="data" style="stroke:{charts.colour(k)}" '
            f'd="{charts.scatter_shape(points, _SCATTER)}"/>'
            for k, points in enumerate(picture.data)
        )
        background = f'<g id="{identifier}">{dots}</g>'
    else:
        background = f'<use href="#{identifier}"/>'
    marks = "".join(
        f'<path class="exemplar" style="fill:{charts.colour(k)}" d="'
        + "".join(charts.marker(k, x, y, size=4.5) for x, y in _SCATTER * points)
        + '"/>'
        for k, points in enumerate(exemplars)
    )
    text = escape(
        f"t-SNE of {len(picture.data)} classes after phase {picture.phase}: where {name} exemplars "
        "lie among the images of their classes."
    )
    side = _SCATTER + 12
    return (
        f'<svg class="chart" viewBox="-6 -6 {side} {side}" role="img" aria-label="{text}">'
        f'<rect class="border" x="-5.5" y="-5.5" width="{side - 1}" height="{side - 1}"/>'
        f"{background}{marks}</svg>"
    )


def _exemplars(groups: Sequence[Group]) -> str:
    parts = []
    drifts = [(group, pixel_drift(group)) for group in groups]
    moved = [(group, drift) for group, drift in drifts if drift and max(drift.values) > 0]
    unmoved = [group.name for group, drift in drifts if drift and max(drift.values) == 0]
    unknown = [group.name for group, drift in drifts if drift is None]
    partly = [
        f"{group.name} (seed {', '.join(drift.seeds)})"
        for group, drift in drifts
        if drift and len(drift.seeds) < len(group.runs)
    ]
    if moved:
        chart = charts.line_chart(
            [
                Series(group.index, group.name, group.num_classes, drift.values)
                for group, drift in moved
            ],
            "Number of classes",
            "Moved since first stored",
            "Lines of the mean root mean square distance of the stored exemplars from their first "
            "versions, in grey levels of 255, against the number of classes.",
            unit=" grey levels",
            percentages=False,
        )
        caption = "Mean distance from the first version (root mean square, grey levels of 255)"
        parts.append(_legend([group for group, _ in moved]))
        parts.append(_figure(caption, chart))
    if unmoved:
        parts.append(f"<p>Never change once stored: {escape('; '.join(unmoved))}.</p>")
    if partly:
        parts.append(
            f"<p>Of the seeds whose exemplars can be seen alone: {escape('; '.join(partly))}.</p>"
        )
    if unknown:
        parts.append(
            f"<p>Not known: {escape('; '.join(unknown))}. It is seen in run directories that still "
            "hold the exemplars, not in a results.json alone, where no codec of the run's own "
            "stores them.</p>"
        )
    parts += [_table(table) for group in groups if (table := tables.learning(group))]
    return "".join(parts)


def _memories(groups: Sequence[Group]) -> str:
    table = memories(groups)
    return _table(table) if table else "<p>The runs do not note it.</p>"


def _times(groups: Sequence[Group]) -> str:
    table = tables.times(groups)
    if table is None:
        return "<p>The runs hold no times.</p>"
    stages = table.header[1:-1]
    rows = [
        (group.name, [tables.seconds_by_stage(group).get(stage, 0.0) for stage in stages])
        for group in groups
    ]
    return charts.stacked_bars(rows, stages) + _table(table)


def _facts(groups: Sequence[Group]) -> str:
    return (
        _table(tables.runs(groups), "paths")
        + _table(tables.fingerprints(groups))
        + _details("All settings", _table(tables.settings(groups), "settings"))
        + _details("Machine and packages", _table(tables.machines(groups), "text"))
    )
