"""Pictures of boxes and arrows: each box below those that point to it, and nothing overlaps."""

import itertools
import re
import xml.etree.ElementTree

import pytest

from tools.layered_picture import Box, draw

SVG = "{http://www.w3.org/2000/svg}"
BOXES = [
    Box("top", 0, "1 module"),
    Box("left", 1, "a few modules & more"),
    Box("right", 1, ""),
    Box("bottom", 2, "8 modules"),
    Box("ground", 3, "a line of text", is_wide=True),
]
ARROWS = {("top", "left"): 1, ("top", "bottom"): 12, ("left", "right"): 3, ("right", "bottom"): 4}


def rectangles(text):
    """Returns name, x, y, width and height of each box."""
    root = xml.etree.ElementTree.fromstring(text)
    elements = list(root)
    for rectangle, title in itertools.pairwise(elements):
        if rectangle.tag == f"{SVG}rect" and rectangle.get("rx"):
            yield title.text, *(float(rectangle.get(key)) for key in ("x", "y", "width", "height"))


def test_boxes_stand_below_those_that_point_to_them():
    top = {name: y for name, _, y, *_ in rectangles(draw(BOXES, ARROWS))}
    assert set(top) == {box.name for box in BOXES}
    assert all(top[a] < top[b] for a, b in ARROWS)
    assert top["ground"] == max(top.values())


def test_boxes_and_lines_that_pass_keep_apart():
    picture = draw(BOXES, ARROWS)
    boxes = list(rectangles(picture))
    for (_, x, y, width, height), (_, x2, y2, width2, height2) in itertools.combinations(boxes, 2):
        assert x + width < x2 or x2 + width2 < x or y + height < y2 or y2 + height2 < y
    passing = [tuple(map(float, line)) for line in re.findall(r'd="M(\d+) (\d+)v40"', picture)]
    assert passing, "the arrow from top to bottom passes the rows between"
    for line_x, line_y in passing:
        for _, x, y, width, height in boxes:
            assert not (x <= line_x <= x + width and y <= line_y <= y + height)


def test_every_arrow_has_its_number():
    numbers = re.findall(r'fill="#\w+">(\d+)</text>', draw(BOXES, ARROWS))
    assert sorted(map(int, numbers)) == [1, 3, 4, 12]


def test_equal_input_gives_an_equal_picture():
    reordered = dict(reversed(ARROWS.items()))
    assert draw(BOXES, ARROWS) == draw(BOXES[::-1], reordered)


def test_arrows_that_go_round_are_refused():
    with pytest.raises(ValueError, match="go round between left, right"):
        draw(BOXES, ARROWS | {("right", "left"): 1})
