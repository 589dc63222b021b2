"""Flags of the settings: one for each, read from the command line and from flagfiles.

Entry points define the flags, parse them once and pass `Settings` on; nothing else reads a flag.
"""

import pathlib
import re
import sys
import types
import typing
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from mnemonics_tf import __version__
from mnemonics_tf.errors import UserError, printable, shortened
from mnemonics_tf.fields import Facts
from mnemonics_tf.paths import user_path
from mnemonics_tf.registry import imported, is_own, looked_up
from mnemonics_tf.settings import Settings, all_fields

_MAX_NESTED_FLAGFILES = 10


class _Names(flags.EnumParser):
    """The names of a registry or looked up elsewhere, or `package.module:Name`, a user's own."""

    def __init__(self, facts: Facts, name: str):
        super().__init__([*imported(facts.registry, name), *facts.choices])
        self._facts = facts

    def parse(self, argument: str) -> str:
        elsewhere = self._facts.is_elsewhere(argument)
        return argument if elsewhere or is_own(argument) else super().parse(argument)


def define_flags() -> None:
    """Defines one absl flag for every setting."""
    for _, field, default in all_fields(Settings()):
        facts = field.metadata["facts"]
        description = facts.help
        if facts.registry:
            parser = _Names(facts, field.name)
            values = ", ".join(parser.enum_values)
            description += f" Values: {values}; or one of your own: package.module:Name."
            flags.DEFINE(parser, field.name, default, description)
        elif facts.choices:
            flags.DEFINE_enum(field.name, default, list(facts.choices), description)
        elif isinstance(default, tuple):
            flags.DEFINE_list(field.name, [str(item) for item in default], description)
        elif isinstance(default, bool):
            flags.DEFINE_boolean(field.name, default, description)
        elif isinstance(default, int):
            flags.DEFINE_integer(field.name, default, description)
        elif isinstance(default, float):
            flags.DEFINE_float(field.name, default, description)
        else:
            flags.DEFINE_string(field.name, default, description)


def define_flags_of_a_run(phase: str) -> None:
    """Defines the flags by which a program opens a run that was trained.

    Args:
        phase: what becomes of the phase that `--phase` names.
    """
    flags.DEFINE_string("run_dir", None, "Directory of the run.", required=True)
    flags.DEFINE_string(
        "data_dir",
        "",
        "Directory (or archive) that holds the data; empty: where it was in training.",
    )
    flags.DEFINE_integer("phase", -1, f"Phase to {phase}; -1: all that are done.")
    for name in looked_up():
        help_text = "The run's package.module:Name, which then is imported: for runs you trust."
        flags.DEFINE_string(name, None, help_text)


def named_code(values: flags.FlagValues) -> dict[str, str]:
    """Returns what flags named of a run's own code, which may be imported."""
    return {name: str(values[name].value) for name in looked_up() if values[name].present}


class _VersionFlag(flags.BooleanFlag):
    """`--version`: prints it, and nothing else is done."""

    def __init__(self):
        super().__init__("version", False, "Print the version and exit.")

    def parse(self, arguments: Any) -> None:
        super().parse(arguments)
        if self.value:
            print(f"mnemonics_tf {__version__}")
            sys.exit()


def define_version() -> None:
    """Defines the flag `--version`."""
    flags.DEFINE_flag(_VersionFlag())


def parse_flags(arguments: list[str]) -> list[str]:
    """Parses flags as absl does, once their flagfiles are found to be sound; for `app.run`."""
    try:
        _check_flagfiles(arguments[1:], [])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    return app.parse_flags_with_usage(arguments)


def _check_flagfiles(arguments: Sequence[str], including: list[pathlib.Path]) -> None:
    """Refuses flagfiles that can't be read, or that include themselves: absl reads on then."""
    for argument in arguments:
        named = re.fullmatch(r"--?flagfile=(.*)", argument.strip())
        if not named:
            continue
        path = user_path(named[1].strip("\"'"))
        shown = shortened(path, 200)
        if path.absolute() in including or len(including) >= _MAX_NESTED_FLAGFILES:
            way = " -> ".join(map(printable, including[:5]))
            raise UserError(f"--flagfile={shown} includes itself or too many others: {way}")
        try:
            if path.exists() and not path.is_file():  # a pipe would be empty when absl reads it
                raise UserError(
                    f"--flagfile={shown} is no regular file: pass the path of a text file"
                )
            lines = path.read_text().split("\n")  # as absl does, at nothing else
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(
                f"--flagfile={shown} can't be read as flags ({reason}): pass the path of a text "
                "file"
            ) from error
        _check_flagfiles(lines, [*including, path.absolute()])


def settings_from_flags(values: flags.FlagValues) -> Settings:
    """Returns the settings that parsed flags stand for.

    Raises:
        UserError: if a value is out of its range or a list has an item of the wrong kind.
    """
    groups = {}
    for group, group_type in typing.get_type_hints(Settings).items():
        kinds = typing.get_type_hints(group_type)
        groups[group] = group_type(
            **{name: _converted(name, kind, values[name].value) for name, kind in kinds.items()}
        )
    return Settings(**groups)


def passed_settings(values: flags.FlagValues) -> dict[str, Any]:
    """Returns the settings whose flags were passed, by name.

    Raises:
        UserError: as for `settings_from_flags`.
    """
    settings = settings_from_flags(values)
    return {
        field.name: value for _, field, value in all_fields(settings) if values[field.name].present
    }


def _converted(name: str, kind: Any, value: Any) -> Any:
    if not isinstance(kind, types.GenericAlias):
        return value
    item_kind = typing.get_args(kind)[0]
    try:
        return tuple(item_kind(item) for item in value)
    except ValueError as error:
        raise UserError(
            f"--{name}={','.join(value)}: expected {item_kind.__name__} values separated by commas"
        ) from error
