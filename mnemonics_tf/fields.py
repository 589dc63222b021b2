"""What a setting may be: facts that stand beside each field, and the one check that reads them."""

import dataclasses
import types
import typing
from collections.abc import Sequence
from typing import Any

from mnemonics_tf.errors import UserError, is_utf8, printable

_MAX_NUMBER = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a setting, its `metadata["facts"]`; bounds hold for each item of a list.

    Attributes:
        help: text of its flag.
        at_least: smallest number that makes sense, or None.
        at_most: largest number that makes sense, or None.
        above: number that it has to exceed, or None.
        below: number that it has to stay below, or None.
        finite: whether infinity is refused.
        ascending: whether the items of a list have to ascend.
        choices: the values there are, beside those of the registry; empty: any.
        registry: `module:NAME` of a mapping by which names are looked up; a value may then also be
            `package.module:Name`, the name of a user's own.
        prefix: beginning of further names, which are looked up elsewhere; empty: there are none.
        suffix: end of further names, likewise.
    """

    help: str
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    finite: bool = True
    ascending: bool = False
    choices: tuple[str, ...] = ()
    registry: str = ""
    prefix: str = ""
    suffix: str = ""

    @property
    def range(self) -> str:
        """The numbers that are allowed, in words."""
        low = f"from {self.at_least}" if self.at_least is not None else f"above {self.above}"
        if self.above is not None and self.below is not None:
            return f"between {self.above} and {self.below}"
        if self.at_least is None and self.above is None:
            return f"up to {self.at_most}"
        return f"{low} to {self.at_most}" if self.at_most is not None else f"{low} up"

    def is_elsewhere(self, name: str) -> bool:
        """Whether a name is looked up neither in the registry nor in a user's own code."""
        starts = bool(self.prefix) and name.startswith(self.prefix)
        return starts or (bool(self.suffix) and name.endswith(self.suffix))

    def allows(self, number: float) -> bool:
        """Whether a number is in range; one that is no number is not."""
        return (
            (self.at_least is None or number >= self.at_least)
            and (self.at_most is None or number <= self.at_most)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )


def setting(default: Any, description: str, **facts: Any) -> Any:
    """Returns a dataclass field with its default and facts; the description is its flag's help."""
    return dataclasses.field(default=default, metadata={"facts": Facts(description, **facts)})


def check(field: dataclasses.Field, kind: Any, value: Any) -> None:
    """Refuses a value of another type than the setting's, or one that no run can work with.

    Args:
        field: of the setting.
        kind: its type: one of Python's plain types, or a tuple of them.
        value: what it is to be.

    Raises:
        UserError: names the flag, what was passed and what may be.
    """
    flag = f"--{field.name}={_shown(value)}"
    items = _items(kind, flag, value)
    facts: Facts = field.metadata["facts"]
    # The phases themselves may be passed on several lines; they are stored as one.
    if field.name != "phase_classes" and any(_breaks_a_line(item) for item in items):
        raise UserError(
            f"--{field.name}={printable(str(value)[:100])}: a line break or NUL can't be part of "
            "it, for flags.txt holds a setting a line: pass it without"
        )
    if not all(is_utf8(item) for item in items if isinstance(item, str)):
        raise UserError(
            f"--{field.name}={printable(str(value)[:100])} is not UTF-8, as flags.txt is: rename "
            "what it names, or pass another"
        )
    numbers = [item for item in items if type(item) in (int, float)]
    if facts.finite and not all(abs(number) <= _MAX_NUMBER for number in numbers):
        raise UserError(f"{flag}: pass finite numbers up to {_MAX_NUMBER}")
    if facts.ascending and (
        list(items) != sorted(items) or not all(facts.allows(number) for number in numbers)
    ):
        raise UserError(f"{flag}: pass ascending numbers {facts.range}, e.g. 0.5,0.75")
    if not all(facts.allows(number) for number in numbers):
        raise UserError(f"{flag}: pass a number {facts.range}")
    if facts.choices and not facts.registry and value not in facts.choices:
        raise UserError(f"{flag}: pass one of {', '.join(facts.choices)}")


def _items(kind: Any, flag: str, value: Any) -> Sequence[Any]:
    """Returns the items of a list, or the one value, all of the setting's type."""
    is_list = isinstance(kind, types.GenericAlias)
    item_kind = typing.get_args(kind)[0] if is_list else kind
    items = value if is_list and isinstance(value, tuple) else (value,)
    accepted = (int, float) if item_kind is float else (item_kind,)
    if isinstance(value, tuple) != is_list or not all(type(item) in accepted for item in items):
        expected = f"a tuple of {item_kind.__name__} values" if is_list else item_kind.__name__
        raise UserError(f"{flag}: expected {expected}")
    return items


def _breaks_a_line(item: Any) -> bool:
    return isinstance(item, str) and any(character in item for character in "\n\r\0")


def _shown(value: Any) -> str:
    return ",".join(map(str, value))[:100] if isinstance(value, tuple) else str(value)[:100]
