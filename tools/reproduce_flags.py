"""Flags of runs as text: what they say, and whether it can be said."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from mnemonics_tf.settings import Settings, by_name


def values(passed: Sequence[str]) -> dict[str, str | bool]:
    """Returns what flags say, by name; the last one of a name holds."""
    told: dict[str, str | bool] = {}
    for flag in passed:
        name, equals, value = flag.removeprefix("--").partition("=")
        if equals:
            told[name] = value
        else:
            told[name.removeprefix("no")] = not name.startswith("no")
    return told


def is_value(flag: str) -> bool:
    """Whether a flag has a value of its setting's type; one without a value is true or false."""
    ((name, value),) = values([flag]).items()
    defaults = dataclasses.asdict(Settings())
    default = by_name(defaults).get(name)
    if isinstance(value, bool):
        return isinstance(default, bool)
    try:
        in_type_of(list(default) if isinstance(default, tuple) else default, value)
    except (ValueError, KeyError):
        return False
    return True


def in_type_of(example: Any, text: str | bool) -> Any:
    """Returns the value of a flag in the type that results.json has for it."""
    if isinstance(text, bool):
        return text
    if isinstance(example, bool):
        return {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}[
            text.lower()
        ]
    if isinstance(example, list):
        return [float(item) for item in text.split(",")]
    return type(example)(text)
