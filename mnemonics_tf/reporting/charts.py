"""Charts as SVG: text that a page takes in, coloured by the page's style sheet."""

import dataclasses
import html
import math
from collections.abc import Sequence

import numpy as np

#: how many colours the style sheet has, `--c0` and so on; markers and dashes tell more apart
NUM_COLOURS = 7
#: points of accuracy, within which all values are a flat line
_FLAT = 1.0
#: half the length of the stroke that stands for a seed's line of one point
_STROKE = 5
_DASHES = ("", "7 3", "2 3")
_WIDTH, _HEIGHT = 440, 300
_RIGHT, _TOP, _BOTTOM = 14, 12, 48
#: a line of text, and a digit of it, in the font of the style sheet at its largest
_LINE, _DIGIT = 20, 9


@dataclasses.dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        index: decides colour, marker and dash.
        name: in the legend and for readers of the points.
        x: positions.
        y: means.
        half_widths: of the ribbon, one a point; None draws none.
        members: single runs behind the means, drawn as thin lines.
    """

    index: int
    name: str
    x: Sequence[float]
    y: Sequence[float]
    half_widths: Sequence[float] | None = None
    members: Sequence[Sequence[float]] = ()


def escape(text: object) -> str:
    """Returns text for HTML and SVG, attributes too."""
    return html.escape(str(text), quote=True)


def colour(index: int) -> str:
    """Returns the style sheet's colour of a series."""
    return f"var(--c{index % NUM_COLOURS})"


def marker(index: int, x: float, y: float, size: float = 4.0) -> str:
    """Returns the `d` of a closed path around (x, y); seven shapes."""
    angles = {
        0: (12, 0),
        1: (4, 45),
        2: (3, -90),
        3: (4, 0),
        4: (3, 90),
        5: (6, 0),
        6: (5, -90),
    }
    corners, turn = angles[index % NUM_COLOURS]
    size *= 1.25 if corners < 5 else 1.0
    points = [
        (
            x + size * math.cos(math.radians(turn + 360 * k / corners)),
            y + size * math.sin(math.radians(turn + 360 * k / corners)),
        )
        for k in range(corners)
    ]
    return "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in points) + "Z"


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Returns round numbers that cover the range, at most about `most`.

    matplotlib's locators do the same; a report's charts, which are SVG that answers the pointer, do
    without it.
    """
    span = high - low or abs(high) or 1.0
    rough = span / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(k * step, 10) for k in range(first, max(last, first + 1) + 1)]


def line_chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    description: str,
    unit: str = "%",
    percentages: bool = True,
) -> str:
    """Returns a chart of lines with ribbons around their means.

    Args:
        series: at least one, none of them empty.
        x_label: below the horizontal axis.
        y_label: beside the vertical axis.
        description: for those who don't see the chart.
        unit: behind the numbers that show where the pointer is.
        percentages: whether nothing below 0 or above 100 can be, so that ribbons end there, and a
            flat line has the points around it on its axis.
    """
    floor, ceiling = (0.0, 100.0) if percentages else (-np.inf, np.inf)
    bands = [_band(line, floor, ceiling) for line in series]
    y_ticks = _y_ticks(
        float(min(np.min(low) for low, _ in bands)),
        float(max(np.max(high) for _, high in bands)),
        percentages,
    )
    xs = sorted({x for line in series for x in line.x})
    left = _LINE + 10 + _DIGIT * max(len(f"{tick:g}") for tick in y_ticks)
    scale_x = _scale(xs[0], xs[-1], left + 8, _WIDTH - _RIGHT - 8)
    scale_y = _scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [_frame(_thinned(xs), y_ticks, scale_x, scale_y, left, x_label, y_label)]
    for line, (low, high) in zip(series, bands, strict=True):
        if line.half_widths and len(line.x) == 1:  # a ribbon of one point would have no width
            px, paint = scale_x(line.x[0]), colour(line.index)
            stroke = f"M{px:.1f} {scale_y(low[0]):.1f}V{scale_y(high[0]):.1f}"
            parts.append(f'<path class="line" style="stroke:{paint}" d="{stroke}"/>')
        elif line.half_widths:
            edge = [*zip(line.x, high, strict=True), *zip(line.x[::-1], low[::-1], strict=True)]
            outline = _path([(scale_x(x), scale_y(y)) for x, y in edge])
            paint = f"fill:{colour(line.index)}"
            parts.append(f'<path class="ribbon" style="{paint}" d="{outline}Z"/>')
    # The lines of all series lie above all ribbons.
    parts += [_drawn(line, scale_x, scale_y, unit) for line in series]
    return _svg(parts, description, _WIDTH, _HEIGHT)


def _y_ticks(low: float, high: float, percentages: bool) -> list[float]:
    """Returns the ticks of the vertical axis, which show more than a line that is flat."""
    if percentages and high - low < _FLAT:
        low, high = max(low - _FLAT, 0.0), min(high + _FLAT, 100.0)
    return ticks(low, high)


def _band(line: Series, floor: float, ceiling: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lowest and highest value that is drawn at each point."""
    around = np.array([line.y, *line.members])
    widths = line.half_widths or [0.0] * len(line.y)
    low = np.maximum(np.subtract(line.y, widths), floor)
    high = np.minimum(np.add(line.y, widths), ceiling)
    return np.minimum(low, around.min(axis=0)), np.maximum(high, around.max(axis=0))


def _drawn(line: Series, scale_x, scale_y, unit: str) -> str:
    """Returns a series' lines and markers, which tell their values."""
    paint = colour(line.index)
    parts = []
    for member in line.members:
        points = [(scale_x(x), scale_y(y)) for x, y in zip(line.x, member, strict=True)]
        if len(points) == 1:  # a short stroke, for a line of one point can't be seen
            points = [(points[0][0] + side, points[0][1]) for side in (-_STROKE, _STROKE)]
        parts.append(f'<path class="member" style="stroke:{paint}" d="{_path(points)}"/>')
    points = [(scale_x(x), scale_y(y)) for x, y in zip(line.x, line.y, strict=True)]
    dash = _DASHES[line.index // NUM_COLOURS % len(_DASHES)]
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    parts.append(f'<path class="line" style="stroke:{paint}"{dashes} d="{_path(points)}"/>')
    widths: Sequence[float | None] = line.half_widths or [None] * len(line.y)
    for (px, py), x, y, width in zip(points, line.x, line.y, widths, strict=True):
        interval = "" if width is None else f" ± {width:.2f}"
        text = escape(f"{line.name}: {y:.2f}{interval}{unit} at {x:g}")
        shape = marker(line.index, px, py)
        parts.append(f'<path style="fill:{paint}" d="{shape}"><title>{text}</title></path>')
    return "".join(parts)


def legend(names: Sequence[tuple[int, str]], lines: bool = True) -> str:
    """Returns a legend as an HTML list.

    Args:
        names: index of each series and its name.
        lines: show a line behind each marker.
    """
    items = []
    for index, name in names:
        dash = _DASHES[index // NUM_COLOURS % len(_DASHES)]
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        line = f'<path class="line" style="stroke:{colour(index)}"{dashes} d="M1 6L27 6"/>'
        items.append(
            f'<li><svg width="28" height="12" aria-hidden="true">{line * lines}<path '
            f'style="fill:{colour(index)}" d="{marker(index, 14, 6)}"/></svg>{escape(name)}</li>'
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def stacked_bars(rows: Sequence[tuple[str, Sequence[float]]], parts: Sequence[str]) -> str:
    """Returns horizontal bars as HTML, all to one scale, each divided into parts.

    The numbers stand in the table beside it, so that the bars are for the eye alone.

    Args:
        rows: name and non-negative lengths, one of each part.
        parts: their names, for the legend.
    """
    longest = max((sum(lengths) for _, lengths in rows), default=0.0) or 1.0
    items = []
    for name, lengths in rows:
        pieces = "".join(
            f'<i class="p{k % NUM_COLOURS}" style="width:{100 * length / longest:.2f}%"></i>'
            for k, length in enumerate(lengths)
        )
        items.append(f'<div>{escape(name)}</div><div class="bar">{pieces}</div>')
    legend_items = "".join(
        f'<li><i class="p{k % NUM_COLOURS} key"></i>{escape(part)}</li>'
        for k, part in enumerate(parts)
    )
    return (
        f'<div aria-hidden="true"><div class="bars">{"".join(items)}</div>'
        f'<ul class="legend">{legend_items}</ul></div>'
    )


def scatter_shape(points: np.ndarray, size: float) -> str:
    """Returns the `d` of dots at `points` `[n, 2]` of a square picture, each in [0, 1].

    Dots are lines of no length with round ends: the shortest way to write thousands.
    """
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in size * points)


def _scale(low: float, high: float, start: float, end: float):
    span = high - low
    if not span:
        return lambda value: (start + end) / 2
    return lambda value: start + (value - low) / span * (end - start)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _thinned(xs: Sequence[float], most: int = 8) -> list[float]:
    """Returns at most about `most` of the positions, in order, far enough apart to be written.

    The last one is among them.
    """
    least = (xs[-1] - xs[0]) / most
    taken = [xs[-1]]
    for x in xs[-2::-1]:
        if taken[-1] - x >= least:
            taken.append(x)
    return taken[::-1]


def _frame(xs, y_ticks, scale_x, scale_y, left: float, x_label: str, y_label: str) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    lines = []
    for tick in y_ticks:
        y = scale_y(tick)
        lines.append(f'<path class="grid" d="M{left} {y:.1f}H{right}"/>')
        lines.append(f'<text x="{left - 6}" y="{y + 4.5:.1f}" text-anchor="end">{tick:g}</text>')
    for x in xs:
        px = scale_x(x)
        lines.append(f'<path class="grid" d="M{px:.1f} {bottom}v4"/>')
        lines.append(f'<text x="{px:.1f}" y="{bottom + 19}" text-anchor="middle">{x:g}</text>')
    middle_x, middle_y = (left + right) / 2, (_TOP + bottom) / 2
    lines.append(
        f'<text x="{middle_x}" y="{_HEIGHT - 7}" text-anchor="middle">{escape(x_label)}</text>'
    )
    lines.append(
        f'<text x="{_LINE - 5}" y="{middle_y}" text-anchor="middle" '
        f'transform="rotate(-90 {_LINE - 5} {middle_y})">{escape(y_label)}</text>'
    )
    return "".join(lines)


def _svg(parts: Sequence[str], description: str, width: int, height: int) -> str:
    text = escape(description)
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{text}">'
        f"{''.join(parts)}</svg>"
    )
