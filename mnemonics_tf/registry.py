"""Names in settings: looked up among the known ones, or `package.module:Name`, a user's own."""

import importlib
import re
import shlex
import sys
from collections.abc import Container, Mapping
from typing import Any, TypeVar

from mnemonics_tf.errors import UserError
from mnemonics_tf.settings import TFDS_PREFIX, Settings, all_fields

Value = TypeVar("Value")

_OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_own(name: str) -> bool:
    """Whether a name is that of a user's own code, `package.module:Name`, which runs when read."""
    return _OWN.fullmatch(name) is not None


def is_own_source(dataset: str) -> bool:
    """Whether a data set is read by a user's own code."""
    return is_own(dataset) and not dataset.startswith(TFDS_PREFIX)


def own_code(settings: Settings) -> dict[str, str]:
    """Returns the settings that name a user's own code, which runs when it is looked up."""
    found = {}
    for _, field, value in all_fields(settings):
        facts = field.metadata["facts"]
        if facts.registry and is_own(value) and not facts.is_elsewhere(value):
            found[field.name] = value
    return found


def looked_up() -> list[str]:
    """Returns the settings that may name code of one's own."""
    fields = (field for _, field, _ in all_fields(Settings()))
    return [field.name for field in fields if field.metadata["facts"].registry]


def refuse_unnamed_code(settings: Settings, named: Container[str], what: str) -> None:
    """Refuses to import what a run names, unless the user names it too: it may be a stranger's.

    Args:
        settings: of the run.
        named: the settings that the user passed.
        what: would import it, for the message.

    Raises:
        UserError: names the flags to pass.
    """
    unnamed = {name: value for name, value in own_code(settings).items() if name not in named}
    if unnamed:
        raise UserError(
            f"{settings.run.run_dir} was run with code of its own, which {what} would import: if "
            f"you trust it, pass {flags_of(unnamed)} too"
        )


def flags_of(values: Mapping[str, str]) -> str:
    """Returns settings as they are passed on a command line."""
    return shlex.join(f"--{name}={value}" for name, value in values.items())


def find(known: Mapping[str, Value], name: str, flag: str) -> Value:
    """Returns what a name stands for.

    Args:
        known: the registry.
        name: one of its names, or `package.module:Name`, which is imported; modules in the working
            directory are found too.
        flag: that names it, for messages.

    Raises:
        UserError: if there is none of that name.
    """
    if name in known:
        return known[name]
    if is_own(name):
        return imported(name, flag)
    raise UserError(
        f"--{flag}={name}: known are {', '.join(known)}; or pass one of your own as "
        "package.module:Name"
    )


def imported(name: str, flag: str) -> Any:
    """Returns the object `package.module:Name`.

    Raises:
        UserError: if the module can't be imported, or has no such name.
    """
    module_name, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a console command's path begins with its own folder
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the module's own code raises
        raise UserError(
            f"--{flag}={name}: importing {module_name} failed ({type(error).__name__}: {error})"
        ) from error
    if not hasattr(module, attribute):
        raise UserError(f"--{flag}={name}: {module_name} has no {attribute}")
    return getattr(module, attribute)
