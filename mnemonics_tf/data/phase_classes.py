"""Phases whose classes are named, in a file that a person wrote or inside a run's settings.

The settings of a run hold the phases themselves, as JSON: a run goes on, and is evaluated, wherever
the file lies by then and whatever it holds.
"""

import csv
import json
from collections.abc import Sequence

from mnemonics_tf.errors import UserError, printable
from mnemonics_tf.paths import user_path

#: far above any list of classes
_MAX_BYTES = 16 * 2**20


def settled(value: str) -> str:
    """Returns phases as settings keep them, from what `--phase_classes` was given.

    Args:
        value: the path of a file, or phases as JSON, `[["cat", "dog"], ["owl"]]`.

    Raises:
        UserError: if the file can't be read or is not of this form.
    """
    return json.dumps(named_phases(value), ensure_ascii=False)


def is_settled(value: str) -> bool:
    """Whether a value holds the phases themselves, not the path of a file."""
    return value.startswith("[")


def named_phases(value: str) -> list[list[str]]:
    """Returns the names of every phase's classes.

    A file has a line for every phase, names separated by commas; a name that has a comma in it
    stands in double quotes, as in CSV files. Empty lines and those that begin with # do not count.

    Args:
        value: the path of a file, or phases as JSON.

    Raises:
        UserError: if the file can't be read, or value or file are not of this form.
    """
    if not is_settled(value):
        return _parse(_read(value), value)
    try:
        phases = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"--phase_classes={value[:100]}: what begins with [ is read as JSON, and this is none "
            f'({error}): pass the path of a file, or phases like [["cat", "dog"], ["owl"]]'
        ) from error
    if not (
        isinstance(phases, list)
        and all(isinstance(phase, list) and phase for phase in phases)
        and all(isinstance(name, str) for phase in phases for name in phase)
    ):
        raise UserError(
            f"--phase_classes={value[:100]}: expected a list of lists of class names, as "
            '[["cat", "dog"], ["owl"]]'
        )
    return phases


def _read(path: str) -> str:
    file = user_path(path)
    try:
        if file.exists() and not file.is_file():
            raise UserError(
                f"--phase_classes={path} is no regular file: pass the path of a text file"
            )
        size = file.stat().st_size
        if size > _MAX_BYTES:
            raise UserError(
                f"--phase_classes={path} has {size} bytes, at most {_MAX_BYTES} are read: pass a "
                "text file with a line of class names for every phase"
            )
        return file.read_text("utf-8-sig")  # some editors put a mark before the first letter
    except UnicodeDecodeError as error:
        raise UserError(
            f"--phase_classes={path} can't be read: it is not UTF-8 ({error.reason} at byte "
            f"{error.start}): save it as UTF-8 text"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UserError(f"--phase_classes={path} can't be read: {error}") from error


def _parse(text: str, path: str) -> list[list[str]]:
    phases = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            (fields,) = csv.reader([line.strip()], skipinitialspace=True, strict=True)
        except csv.Error as error:
            raise UserError(
                f"--phase_classes={path}, line {number}: {error}; a name with a comma or quotes "
                'stands in double quotes, which are doubled within: "tench, Tinca", "5"" disk"'
            ) from error
        names = [field.strip() for field in fields if field.strip()]
        if names:
            phases.append(names)
    return phases


def ids_of_phases(
    value: str, class_names: Sequence[str], original_ids: Sequence[int]
) -> list[list[int]]:
    """Returns the original class ids of every phase that `--phase_classes` names.

    Args:
        value: the path of a file, or phases as JSON.
        class_names: of the data.
        original_ids: of these classes, in the same order.

    Raises:
        UserError: if the phases do not name every class exactly once.
    """
    phases = named_phases(value)
    named = [name for phase in phases for name in phase]
    counted: dict[str, int] = {}
    for name in named:
        counted[name] = counted.get(name, 0) + 1
    problems = {
        "unknown": sorted(set(named) - set(class_names)),
        "missing": sorted(set(class_names) - set(named)),
        "named twice": sorted(name for name, count in counted.items() if count > 1),
    }
    found = [
        f"{what}: {', '.join(map(printable, names[:5]))}"
        for what, names in problems.items()
        if names
    ]
    if found:
        with_comma = [name for name in problems["missing"] if "," in name]
        hint = f'; a name with a comma stands in double quotes: "{"".join(with_comma[:1])}"'
        place = "" if is_settled(value) else f"={value}"
        raise UserError(
            f"--phase_classes{place} must name each of the {len(class_names)} classes once; "
            f"{'; '.join(found)}{hint if with_comma else ''}"
        )
    ids = dict(zip(class_names, original_ids, strict=True))
    return [[ids[name] for name in phase] for phase in phases]
