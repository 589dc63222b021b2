"""What JSON must look like before anything is done with it: shapes, made of smaller shapes.

A shape is a function that takes a value and returns what is wrong with it, as text that begins with
the place in the value: `/heads/nme/accuracy: expected a number from 0 to 1, found "0.5"`. It
returns None where nothing is.
"""

import json
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

from mnemonics_tf.errors import is_utf8

Shape = Callable[[Any], str | None]

_LARGEST = sys.float_info.max  # whole numbers beyond it are no numbers to work with
_MOST_NESTED = 20


def whole(low: int = 0, high: int = 2**53) -> Shape:
    """A whole number."""

    def check(value: Any) -> str | None:
        if type(value) is int and low <= value <= high:
            return None
        return _expected(f"a whole number from {low} to {high}", value)

    return check


def number(low: float = -_LARGEST, high: float = _LARGEST, finite: bool = True) -> Shape:
    """A number; where it need not be finite, NaN and infinity are numbers too."""
    within = f" from {low:g} to {high:g}" if high < _LARGEST else ""
    text = f"a number{within or (' from 0 up' if low == 0 else '')}"

    def check(value: Any) -> str | None:
        if type(value) in (int, float) and low <= value <= high:
            return None
        if type(value) is float and not finite and not math.isfinite(value):
            return None
        return _expected(text, value)

    return check


def text(value: Any) -> str | None:
    """A text that can be written to a file."""
    if not isinstance(value, str):
        return _expected("a text", value)
    return None if is_utf8(value) else _expected("a text in UTF-8", value)


def flag(value: Any) -> str | None:
    """True or false."""
    return None if isinstance(value, bool) else _expected("true or false", value)


def one_of(*known: Any) -> Shape:
    """One of some values."""

    def check(value: Any) -> str | None:
        if any(type(value) is type(item) and value == item for item in known):
            return None
        return _expected(" or ".join(map(json.dumps, known)), value)

    return check


def plain(value: Any) -> str | None:
    """A text, a number, true, false or null, or a list of these."""
    if not isinstance(value, list):
        return _scalar(value)
    return next((f"/{i}{wrong}" for i, v in enumerate(value) if (wrong := _scalar(v))), None)


def _scalar(value: Any) -> str | None:
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, str):
        return text(value)
    return _ANY_NUMBER(value) and _expected("a plain value or a list of them", value)


def anything(value: Any) -> str | None:
    """Any value, if not nested too deeply; its numbers can be worked with."""
    return _anything(value, _MOST_NESTED)


def _anything(value: Any, levels: int) -> str | None:
    if not isinstance(value, (dict, list)):
        return _scalar(value)
    if not levels:
        return _expected(f"at most {_MOST_NESTED} values within each other", value)
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return next(
        (f"/{_cut(key)}{w}" for key, item in items if (w := _anything(item, levels - 1))), None
    )


def optional(shape: Shape) -> Shape:
    """Null, or a value of a shape."""
    return lambda value: None if value is None else shape(value)


def sequence(item: Shape, length: int | None = None, at_least: int = 0) -> Shape:
    """A list.

    Args:
        item: the shape of each entry.
        length: how many there must be; None: any number.
        at_least: how many there must be at least.
    """
    count = f"{length} entries" if length is not None else f"at least {at_least} entries"

    def check(value: Any) -> str | None:
        if not isinstance(value, list):
            return _expected("a list", value)
        if len(value) < at_least or length not in (None, len(value)):
            return f": expected {count}, found {len(value)}"
        return next((f"/{i}{wrong}" for i, v in enumerate(value) if (wrong := item(v))), None)

    return check


def mapping(item: Shape) -> Shape:
    """An object with any names.

    Args:
        item: the shape of each value.
    """
    return fields({}, {}, others=item)


def fields(
    required: Mapping[str, Shape],
    also: Mapping[str, Shape] | None = None,
    others: Shape | None = None,
) -> Shape:
    """An object with certain names.

    Args:
        required: names that must be there.
        also: names that may be there.
        others: the shape of what has another name; None ignores it, as a newer version may have
            written it.
    """
    known = {**required, **(also or {})}

    def check(value: Any) -> str | None:
        if not isinstance(value, dict):
            return _expected("an object", value)
        missing = [name for name in required if name not in value]
        if missing:
            return f": {', '.join(map(repr, missing))} is missing"
        for name, item in value.items():
            if not is_utf8(name):
                return f": {_cut(json.dumps(name))} is no name in UTF-8"
            shape = known.get(name, others)
            wrong = shape(item) if shape else None
            if wrong:
                return f"/{_cut(name)}{wrong}"
        return None

    return check


def _expected(what: str, value: Any) -> str:
    kinds: dict[type, str] = {dict: "an object", list: "a list"}
    return f": expected {what}, found {kinds.get(type(value)) or _cut(json.dumps(value))}"


def _cut(value: Any) -> str:
    shown = str(value)
    shown = "".join(c if c.isprintable() else "?" for c in shown[:60])
    return f"{shown}..." if len(str(value)) > 60 else shown


_ANY_NUMBER = number(finite=False)
