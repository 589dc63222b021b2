"""Draws which folder of mnemonics_tf/ imports which: python -m tools.draw_imports.

It writes docs/architecture.svg. LEVELS are the rule that tests/test_imports.py holds: an import
goes down, or stays on its level.
"""

import collections
import dataclasses
import pathlib

from tools.generate_build import (
    REPOSITORY,
    SOURCE_FOLDERS,
    imported_names,
    longest_known,
    read_sources,
)
from tools.layered_picture import Box, draw

PACKAGE = "mnemonics_tf"
PICTURE = REPOSITORY / "docs" / "architecture.svg"

#: The levels from the top down; on each, rooms and the modules in them, below `mnemonics_tf`. A
#: name stands for all that is below it, unless a longer one stands elsewhere.
LEVELS: tuple[dict[str, tuple[str, ...]], ...] = (
    {"commands": ("train", "learn", "evaluate", "export", "report")},
    {"extension": ("extension",)},
    {
        "experiment": ("experiment", "opened_run", "outcome"),
        "flags": ("flags", "program"),
        "one's own classifier": ("own_classifier",),
    },
    {"phases": ("phases",), "reporting": ("reporting",)},
    {
        "bilevel": ("bilevel",),
        "exemplars": ("exemplars",),
        "methods": ("methods",),
        "training": ("training",),
        "evaluation": ("evaluation",),
        "serving": ("serving",),
        "monitoring": ("monitoring",),
        # What a run says of itself needs metrics and exemplars; how it lies on disk does not.
        "results of a run": (
            *("run.results", "run.resume", "run.records", "run.data_facts"),
            *("run.learned", "run.history", "run.naming", "run.effects"),
        ),
    },
    {"models": ("models",), "data": ("data",)},
    # The log is below the rest of monitoring/: reading data takes long, and says so.
    {"files and log": ("run", "monitoring.progress")},
    {
        "foundations": (
            "",
            "arrays",
            "devices",
            "errors",
            "extras",
            "fields",
            "norms",
            "paths",
            "randomness",
            "registry",
            "settings",
            "startup",
            "terminal",
            "tracing",
        )
    },
)

#: Rooms that nearly every module imports: their arrows would hide the others.
GROUND = ("files and log", "foundations")


@dataclasses.dataclass(frozen=True)
class Import:
    """One import of a module of the package; modules are named without `mnemonics_tf.`.

    Attributes:
        importer: the importing module.
        imported: the module it imports.
        place: file and line.
    """

    importer: str
    imported: str
    place: str


@dataclasses.dataclass(frozen=True)
class Imports:
    """The modules of the package, without `mnemonics_tf.`, and what they import.

    Attributes:
        modules: all of them; the package itself is "".
        imports: of the repository's modules; those of other folders keep their whole names.
    """

    modules: tuple[str, ...]
    imports: tuple[Import, ...]


def read_imports(repository: pathlib.Path) -> Imports:
    """Returns the modules of the package and their imports."""
    sources = read_sources(repository, [PACKAGE])
    modules = {source.module: _short(source.module) for source in sources}
    imports = []
    for source in sources:
        for name, line in imported_names(source.tree).items():
            place = f"{source.path}:{line}"
            importer, imported = modules[source.module], longest_known(name, modules)
            if imported:
                imports.append(Import(importer, modules[imported], place))
            elif name.split(".")[0] in SOURCE_FOLDERS:
                imports.append(Import(importer, name, place))
    return Imports(tuple(modules.values()), tuple(imports))


def _short(module: str) -> str:
    return "" if module == PACKAGE else module.removeprefix(f"{PACKAGE}.")


def room_of(module: str) -> tuple[int, str]:
    """Returns the level, counted from the top, and the room of a module.

    Raises:
        LookupError: if LEVELS has no place for it.
    """
    places = {
        name: (level, room)
        for level, rooms in enumerate(LEVELS)
        for room, names in rooms.items()
        for name in names
    }
    known = longest_known(module, places)
    if known or not module:
        return places[known]
    raise LookupError(f"{PACKAGE}.{module} needs a place in LEVELS of tools/draw_imports.py")


def picture(package: Imports) -> str:
    """Returns the picture of the package's imports as SVG."""
    modules = collections.defaultdict(list)
    for module in package.modules:
        modules[room_of(module)[1]].append(module)
    counts = collections.Counter(
        (room_of(importer)[1], room_of(imported)[1])
        for importer, imported in {(i.importer, i.imported) for i in package.imports}
    )
    arrows = {
        rooms: number
        for rooms, number in sorted(counts.items())
        if rooms[0] != rooms[1] and not set(rooms) & set(GROUND)
    }
    boxes = [
        Box(room, level, _describe(room, modules[room]), room in GROUND)
        for level, rooms in enumerate(LEVELS)
        for room in rooms
    ]
    for number, box in enumerate(boxes):
        if box.is_wide:
            users = sum(n for (a, b), n in counts.items() if b == box.name != a)
            text = f"{box.text} (imported {users} times from all rooms above)"
            boxes[number] = dataclasses.replace(box, text=text)
    return draw(boxes, arrows)


def _describe(room: str, modules: list[str]) -> str:
    """Returns how many modules a folder has, or which modules make a room that is no folder."""
    packages = {module.rpartition(".")[0] for module in modules} | {""}
    modules = [module for module in modules if module not in packages]
    if all(module.startswith(f"{room}.") for module in modules):
        return f"{len(modules)} modules"
    names = collections.defaultdict(list)
    for module in modules:
        folder, _, name = module.rpartition(".")
        names[folder].append(name if folder else f"{name}.py")
    texts = (f"{folder}/: {', '.join(names[folder])}" for folder in sorted(names) if folder)
    return "; ".join([*texts, *([", ".join(names[""])] if "" in names else [])])


def main() -> None:
    """Writes the picture."""
    PICTURE.write_text(picture(read_imports(REPOSITORY)), "utf-8")


if __name__ == "__main__":
    main()
