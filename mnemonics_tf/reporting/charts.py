"""Charts as SVG: text that a page takes in, coloured by the page's style sheet."""

import dataclasses
import html
import math
from collections.abc import Sequence

import numpy as np

#: how many colours the style sheet has, `--c0` and so on; markers and dashes tell more apart
NUM_COLOURS = 7
_DASHES = ("", "7 3", "2 3")
_WIDTH, _HEIGHT = 440, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 42


@dataclasses.dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        index: decides colour, marker and dash.
        name: in the legend and for readers of the points.
        x: positions.
        y: means.
        half_widths: of the ribbon, one a point; None draws none.
    """

    index: int
    name: str
    x: Sequence[float]
    y: Sequence[float]
    half_widths: Sequence[float] | None = None


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
    """Returns round numbers that cover the range, at most about `most`."""
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
        percentages: whether nothing below 0 or above 100 can be, so that ribbons end there.
    """
    widths = [line.half_widths or [0.0] * len(line.y) for line in series]
    floor, ceiling = (0.0, 100.0) if percentages else (-np.inf, np.inf)
    lower = [np.maximum(np.subtract(s.y, w), floor) for s, w in zip(series, widths, strict=True)]
    upper = [np.minimum(np.add(s.y, w), ceiling) for s, w in zip(series, widths, strict=True)]
    y_ticks = ticks(float(min(map(np.min, lower))), float(max(map(np.max, upper))))
    xs = sorted({x for line in series for x in line.x})
    scale_x = _scale(xs[0], xs[-1], _LEFT + 8, _WIDTH - _RIGHT - 8)
    scale_y = _scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [_frame(_thinned(xs), y_ticks, scale_x, scale_y, x_label, y_label)]
    for line, half_widths, low, high in zip(series, widths, lower, upper, strict=True):
        points = [(scale_x(x), scale_y(y)) for x, y in zip(line.x, line.y, strict=True)]
        paint = colour(line.index)
        if line.half_widths:
            edge = [*zip(line.x, high, strict=True), *zip(line.x[::-1], low[::-1], strict=True)]
            outline = [(scale_x(x), scale_y(y)) for x, y in edge]
            parts.append(f'<path class="ribbon" style="fill:{paint}" d="{_path(outline)}Z"/>')
        dash = _DASHES[line.index // NUM_COLOURS % len(_DASHES)]
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(f'<path class="line" style="stroke:{paint}"{dashes} d="{_path(points)}"/>')
        for (px, py), x, y, width in zip(points, line.x, line.y, half_widths, strict=True):
            interval = f" ± {width:.2f}" if line.half_widths else ""
            text = escape(f"{line.name}: {y:.2f}{interval}{unit} at {x:g}")
            parts.append(
                f'<path style="fill:{paint}" d="{marker(line.index, px, py)}">'
                f"<title>{text}</title></path>"
            )
    return _svg(parts, description, _WIDTH, _HEIGHT)


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
    """Returns at most about `most` of the positions, the last one among them."""
    step = -(-len(xs) // most)
    return list(xs[::-1][::step])[::-1]


def _frame(xs, y_ticks, scale_x, scale_y, x_label: str, y_label: str) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    lines = []
    for tick in y_ticks:
        y = scale_y(tick)
        lines.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        lines.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for x in xs:
        px = scale_x(x)
        lines.append(f'<path class="grid" d="M{px:.1f} {bottom}v4"/>')
        lines.append(f'<text x="{px:.1f}" y="{bottom + 18}" text-anchor="middle">{x:g}</text>')
    middle_x, middle_y = (_LEFT + right) / 2, (_TOP + bottom) / 2
    lines.append(
        f'<text x="{middle_x}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
    )
    lines.append(
        f'<text x="12" y="{middle_y}" text-anchor="middle" '
        f'transform="rotate(-90 12 {middle_y})">{escape(y_label)}</text>'
    )
    return "".join(lines)


def _svg(parts: Sequence[str], description: str, width: int, height: int) -> str:
    text = escape(description)
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{text}">'
        f"{''.join(parts)}</svg>"
    )
