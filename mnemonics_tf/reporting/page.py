"""The report as one HTML page that needs nothing beside itself."""

import base64
import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from mnemonics_tf.evaluation.evaluator import HEADS
from mnemonics_tf.reporting import charts, tables
from mnemonics_tf.reporting.charts import Series, escape
from mnemonics_tf.reporting.drift import memories_of, pixel_drift, since_birth, strips
from mnemonics_tf.reporting.embedding import Embedding
from mnemonics_tf.reporting.runs import Group, Run
from mnemonics_tf.reporting.style import STYLE
from mnemonics_tf.reporting.tables import Table

_STRIPS = 8
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
    sections = [
        _warnings(warnings),
        _section("Accuracy after each phase", _accuracy(groups)),
        _section("Forgetting", _forgetting(groups)),
        _section("Beside the published figures", _table(tables.beside_the_paper(groups))),
        _section("Exemplars over their class data (t-SNE)", _embeddings(embedded)),
        _section("How exemplars change", _exemplars(groups)),
        _section("Time by stage", _times(groups)),
        _section("Protocol, settings, machines", _facts(groups)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>Class-incremental runs: {escape(names)}</title><style>{STYLE}</style></head>\n"
        f"<body><header><h1>Class-incremental runs</h1><p>{escape(names)}</p></header>\n"
        f"<main>{''.join(sections)}</main></body></html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>\n"


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
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.caption)}">'
        f'<table class="{kind}"><caption><span>{escape(table.caption)}</span></caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
    )


def _cell(table: Table, column: int, text: str) -> str:
    shade = ""
    if text and table.shaded_from is not None and column >= table.shaded_from:
        shade = f' style="background:rgba(var(--heat),{0.45 * float(text) / 100:.3f})"'
    return f"<td{shade}>{escape(text)}</td>"


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def _figure(caption: str, content: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{content}</figure>"


def _legend(groups: Sequence[Group]) -> str:
    return charts.legend([(group.index, group.name) for group in groups])


def _by_protocol(groups: Sequence[Group]) -> list[tuple[str, list[Group]]]:
    """Returns groups that share a protocol, under its data set and N: one panel each."""
    panels: dict[str, list[Group]] = {}
    for group in groups:
        panels.setdefault(str(sorted(group.first.protocol.items())), []).append(group)
    return [(_protocol_name(members[0].first), members) for members in panels.values()]


def _protocol_name(run: Run) -> str:
    protocol = run.protocol
    total, total_bytes = protocol.get("exemplars_total"), protocol.get("exemplar_bytes_total")
    budget = f"{total} exemplars" if total else f"{protocol.get('exemplars_per_class')} a class"
    if total_bytes:
        budget = f"{total_bytes} bytes"
    elif class_bytes := protocol.get("exemplar_bytes_per_class"):
        budget = f"{class_bytes} bytes a class"
    return f"{protocol['dataset']}, N = {protocol['num_phases']}, {budget}"


def _series(group: Group, figures: Sequence[tuple[float, float | None]]) -> Series:
    several = len(group.runs) > 1
    return Series(
        group.index,
        group.name,
        group.num_classes,
        [100 * mean for mean, _ in figures],
        [100 * half_width for _, half_width in figures] if several else None,
    )


def _accuracy(groups: Sequence[Group]) -> str:
    figures = []
    for protocol, members in _by_protocol(groups):
        for head in HEADS:
            chart = charts.line_chart(
                [_series(group, group.accuracies(head)) for group in members],
                "Number of classes",
                "Accuracy on all seen classes (%)",
                f"Lines of accuracy against the number of classes, head {head}, {protocol}; "
                "the figures are in the tables below.",
            )
            figures.append(_figure(f"{protocol}: head {head}", chart))
    details = "".join(
        _details(f"{group.name}, head {head}: phase by phase", _table(tables.by_phase(group, head)))
        for group in groups
        for head in HEADS
    )
    ribbons = "<p>Ribbons: 95% intervals of the mean over seeds.</p>"
    several = any(len(group.runs) > 1 for group in groups)
    return (
        f'{_legend(groups)}<div class="figures">{"".join(figures)}</div>{ribbons * several}'
        f"{_table(tables.summary(groups))}{details}"
    )


def _forgetting(groups: Sequence[Group]) -> str:
    figures = []
    for protocol, members in _by_protocol(groups):
        for head in HEADS:
            chart = charts.line_chart(
                [_series(group, group.base_accuracies(head)) for group in members],
                "Number of classes",
                "Accuracy on phase 0's classes (%)",
                f"Lines of the accuracy on the classes of phase 0 against the number of classes, "
                f"head {head}, {protocol}; the figures are in the tables above, column group 0.",
            )
            figures.append(_figure(f"{protocol}: head {head}", chart))
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
        parts.append(f"<h3>Phase {picture.phase}: {picture.num_seen} classes known</h3>")
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
        + "".join(charts.marker(k, *(_SCATTER * point), size=4.5) for point in points)
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
    moved = [(group, values) for group, values in drifts if values and max(values) > 0]
    unmoved = [group.name for group, values in drifts if values and max(values) == 0]
    unknown = [group.name for group, values in drifts if values is None]
    if moved:
        chart = charts.line_chart(
            [Series(group.index, group.name, group.num_classes, values) for group, values in moved],
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
    if unknown:
        parts.append(
            f"<p>Not known: {escape('; '.join(unknown))}. It is seen in run directories, not in a "
            "results.json alone, where no codec of the run's own stores the exemplars.</p>"
        )
    parts += [_strips(group) for group, _ in moved]
    parts += [_table(table) for group in groups if (table := tables.learning(group))]
    return "".join(parts)


def _strips(group: Group) -> str:
    run = group.first
    pair = since_birth(memories_of(run), group.num_classes, len(run.phases) - 1)
    images, labels = strips(pair, _STRIPS)
    order = run.contents.get("class_order")
    items = []
    for image, label in zip(images, labels, strict=True):
        contents = base64.b64encode(tf.io.encode_png(image).numpy()).decode()
        name = f"class {order[label] if order else label}"
        items.append(
            f'<li><img src="data:image/png;base64,{contents}" alt="Exemplar of {escape(name)}: as '
            f'first stored, now, and the difference">{escape(name)}</li>'
        )
    return (
        f"<h3>{escape(group.name)}: as first stored, now, difference</h3>"
        f'<ul class="strips">{"".join(items)}</ul>'
    )


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
        _table(tables.fingerprints(groups))
        + _details("All settings", _table(tables.settings(groups)))
        + _details("Machine and packages", _table(tables.machines(groups), "text"))
    )
