"""A picture of boxes on levels and arrows that go down, as SVG; equal input gives equal text.

A box stands below every box with an arrow to it. Arrows to one box share its colour and, where they
pass other boxes, one line. The number of an arrow stands where it leaves its box.
"""

import collections
import dataclasses
import html

# In pixels: a row with its arrows, a box, what a number takes below it, between boxes
MARGIN, ROW, HEIGHT, LABEL, GAP = 16, 104, 40, 18, 16
LETTER, SMALL_LETTER, PORT = 10, 6.2, 21  # widths in pixels: of letters, between arrows
COLOURS = (
    *("#0b6e99", "#b5482a", "#3d7a37", "#7a4b9d", "#8a6d00", "#c2185b", "#34589c"),
    *("#1f8a7a", "#6d4c41", "#d07a00", "#5f7f1f", "#9c27b0", "#546e7a", "#c62828"),
)


@dataclasses.dataclass(frozen=True)
class Box:
    """A box.

    Attributes:
        name: its title.
        level: counted from the top; boxes of a level may stand in several rows.
        text: a line below the title.
        is_wide: whether it takes a whole row.
    """

    name: str
    level: int
    text: str
    is_wide: bool = False


@dataclasses.dataclass
class _Node:
    """A box, or the place where the line of arrows to a box passes a row."""

    target: str
    row: int
    is_line: bool
    width: float  # 0 where it is the whole picture's
    x: float = 0.0
    above: list["_Node"] = dataclasses.field(default_factory=list)
    below: list["_Node"] = dataclasses.field(default_factory=list)


def _rows(boxes: list[Box], arrows: dict[tuple[str, str], int]) -> dict[str, int]:
    """Returns the row of each box: below those that point to it, and below higher levels."""
    rows: dict[str, int] = {}
    first = 0
    for level in sorted({box.level for box in boxes}):
        waiting = sorted(box.name for box in boxes if box.level == level)
        row = first
        while waiting:
            pointed_to = {b for a, b in arrows if a in waiting and b in waiting and a != b}
            free = [name for name in waiting if name not in pointed_to]
            if not free:
                raise ValueError(f"arrows go round between {', '.join(waiting)}")
            rows |= dict.fromkeys(free, row)
            waiting = [name for name in waiting if name in pointed_to]
            row += 1
        first = row
    return rows


def _nodes(boxes: list[Box], arrows: dict[tuple[str, str], int]) -> list[list[_Node]]:
    """Returns the nodes of each row, linked."""
    rows = _rows(boxes, arrows)
    leaving = collections.Counter(source for source, _ in arrows)
    nodes = {}
    for box in boxes:
        text = max(LETTER * len(box.name), SMALL_LETTER * len(box.text))
        width = 0 if box.is_wide else max(text + 20, PORT * (leaving[box.name] + 1))
        nodes[box.name, rows[box.name]] = _Node(box.name, rows[box.name], False, width)
    for source, target in sorted(arrows):
        upper = nodes[source, rows[source]]
        for row in range(rows[source] + 1, rows[target] + 1):
            lower = nodes.setdefault((target, row), _Node(target, row, True, 4))
            if upper not in lower.above:
                lower.above.append(upper)
                upper.below.append(lower)
            upper = lower
    by_row: list[list[_Node]] = [[] for _ in range(max(rows.values()) + 1)]
    for node in nodes.values():
        by_row[node.row].append(node)
    return by_row


def _separate(row: list[_Node], wanted: list[float]) -> None:
    """Puts the nodes of a row, in their order, as near to wanted places as their widths allow."""
    gaps = [(a.width + b.width) / 2 + GAP for a, b in zip(row, row[1:], strict=False)]
    right, left = list(wanted), list(wanted)
    for i, gap in enumerate(gaps):
        right[i + 1] = max(right[i + 1], right[i] + gap)
    for i, gap in reversed(list(enumerate(gaps))):
        left[i] = min(left[i], left[i + 1] - gap)
    for node, a, b in zip(row, right, left, strict=True):
        node.x = (a + b) / 2


def _crossings(rows: list[list[_Node]]) -> float:
    """Returns how far lines go sideways, and more for each pair that crosses."""
    total = 0.0
    for row in rows:
        lines = [(node.x, lower.x) for node in row for lower in node.below]
        total += sum(abs(a - b) for a, b in lines)
        total += 200 * sum((a - c) * (b - d) < 0 for a, b in lines for c, d in lines)
    return total


def _place(rows: list[list[_Node]]) -> None:
    """Orders the nodes of each row by their neighbours, and gives each its x."""
    for row in rows:
        _separate(row, [0.0] * len(row))
    best, places = float("inf"), []
    for sweep in range(60):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            near = {id(node): (node.above if down else node.below) or [node] for node in row}
            centre = {id(n): sum(o.x for o in near[id(n)]) / len(near[id(n)]) + 0.0 for n in row}
            row.sort(key=lambda node: (centre[id(node)], node.target))  # noqa: B023 (used at once)
            _separate(row, [centre[id(node)] for node in row])
        crossings = _crossings(rows)
        if crossings < best:
            best, places = crossings, [[(node, node.x) for node in row] for row in rows]
    for row, placed in zip(rows, places, strict=True):
        row[:] = [node for node, _ in placed]
        for node, x in placed:
            node.x = x
    left = min(node.x - node.width / 2 for row in rows for node in row if node.width)
    for row in rows:
        for node in row:
            node.x += MARGIN - left


def _curve(x1: float, y1: float, x2: float, y2: float) -> str:
    """Returns a path that first goes straight down, past its number."""
    y = y1 + LABEL
    middle = (y + y2) / 2
    bend = f"C{x1:.0f} {middle:.0f} {x2:.0f} {middle:.0f} {x2:.0f} {y2:.0f}"
    return f"M{x1:.0f} {y1:.0f}V{y:.0f}{bend}"


def _arrows(
    rows: list[list[_Node]], arrows: dict[tuple[str, str], int], colours: dict[str, str]
) -> list[str]:
    """Returns the elements of all lines, heads and numbers."""
    lines, numbers = [], []
    for y, row in ((MARGIN + ROW * i, row) for i, row in enumerate(rows)):
        for node in row:
            if node.is_line:
                colour = colours[node.target]
                lines.append(f'<path d="M{node.x:.0f} {y}v{HEIGHT}" stroke="{colour}"/>')
            below = sorted(node.below, key=lambda other: (other.x, other.target))
            for i, lower in enumerate(below):
                x = node.x if node.is_line else node.x + PORT * (i - (len(below) - 1) / 2)
                colour = colours[lower.target]
                head = "" if lower.is_line else f' marker-end="url(#{colour[1:]})"'
                # The head ends its line; the box begins below it.
                end = y + ROW - (0 if lower.is_line else 5)
                path = _curve(x, y + HEIGHT, lower.x, end)
                lines.append(f'<path d="{path}" stroke="{colour}"{head}/>')
                if not node.is_line:
                    count = arrows[node.target, lower.target]
                    middle = y + HEIGHT + 10
                    numbers += [
                        f'<rect x="{x - 7:.0f}" y="{middle - 6}" width="14" height="12"/>',
                        f'<text x="{x:.0f}" y="{middle + 4}" fill="{colour}">{count}</text>',
                    ]
    return ['<g fill="none">', *lines, "</g>", '<g fill="#fff" class="s">', *numbers, "</g>"]


def draw(boxes: list[Box], arrows: dict[tuple[str, str], int]) -> str:
    """Returns the picture.

    Args:
        boxes: in any order; arrows neither lead to wide ones nor from them.
        arrows: a number for each arrow, (from, to); none may lead up, or round.
    """
    rows = _nodes(boxes, arrows)
    _place(rows)
    texts = {box.name: box for box in boxes}
    right = max(node.x + node.width / 2 for row in rows for node in row if node.width)
    wide_text = max((len(box.text) for box in boxes if box.is_wide), default=0)
    width = max(right + MARGIN, SMALL_LETTER * wide_text + 4 * MARGIN)
    height = MARGIN + ROW * (len(rows) - 1) + HEIGHT + MARGIN
    targets = sorted({target for _, target in arrows})
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(targets)}
    elements = _arrows(rows, arrows, colours)
    for i, row in enumerate(rows):
        for node in row:
            if not node.is_line:
                elements += _box(node, texts[node.target], MARGIN + ROW * i, width, colours)
    heads = [
        f'<marker id="{colour[1:]}" viewBox="0 0 6 6" refX="1" refY="3" markerWidth="6" '
        f'markerHeight="6" orient="auto"><path d="M0 0L6 3L0 6z" fill="{colour}"/></marker>'
        for colour in sorted({*colours.values()})
    ]
    style = "text{font:bold 14px sans-serif;text-anchor:middle}.s,.s text{font:11px sans-serif}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" '
            f'width="{width:.0f}" height="{height}">',
            f"<style>{style}</style>",
            '<rect width="100%" height="100%" fill="#fff"/>',
            "<defs>",
            *heads,
            "</defs>",
            *elements,
            "</svg>",
            "",
        ]
    )


def _box(node: _Node, box: Box, y: float, width: float, colours: dict[str, str]) -> list[str]:
    """Returns the elements of a box."""
    x, breadth = node.x - node.width / 2, node.width
    if box.is_wide:
        x, breadth = MARGIN, width - 2 * MARGIN
    colour = colours.get(box.name, "#444")
    centre = x + breadth / 2
    return [
        f'<rect x="{x:.0f}" y="{y}" width="{breadth:.0f}" height="{HEIGHT}" rx="5" '
        f'fill="#f7f7f5" stroke="{colour}"/>',
        f'<text x="{centre:.0f}" y="{y + 17}">{html.escape(box.name)}</text>',
        f'<text x="{centre:.0f}" y="{y + 32}" class="s">{html.escape(box.text)}</text>',
    ]
