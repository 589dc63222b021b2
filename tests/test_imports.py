"""The package's imports run one way; those in functions and for type checking count too."""

import graphlib
import re

import pytest

from tools import draw_imports
from tools.draw_imports import LEVELS, Import, room_of
from tools.generate_build import REPOSITORY

FOUNDATIONS = "foundations"
PACKAGE = REPOSITORY / "mnemonics_tf"
COMMANDS = LEVELS[0]["commands"]

#: Rooms that know only some of those below them; what a room knows of itself is not asked.
KNOWS_ONLY = {
    # Functions of arrays: usable without models, data sets, runs and flags.
    "bilevel": {FOUNDATIONS},
    "data": {FOUNDATIONS, "files and log"},
    "models": {FOUNDATIONS, "files and log"},
}

#: Rooms that few may import, and who.
IMPORTED_ONLY_BY = {"reporting": {"report"}, "flags": set(COMMANDS)}


@pytest.fixture(scope="module")
def package():
    return draw_imports.read_imports(REPOSITORY)


def broken_rule(one):
    """Returns the rule that an import breaks, or None."""
    if one.imported.partition(".")[0] in ("tools", "tests"):
        return "the package imports neither tools nor tests"
    upper, importer = room_of(one.importer)
    lower, imported = room_of(one.imported)
    if imported == "commands":
        return "nothing imports a command"
    if lower < upper:
        return f"imports go down, and {importer} is below {imported}"
    if imported == importer:
        return None
    if imported not in KNOWS_ONLY.get(importer, {imported}):
        return f"{importer} knows only {', '.join(sorted(KNOWS_ONLY[importer]))}"
    if one.importer not in IMPORTED_ONLY_BY.get(imported, {one.importer}):
        return f"only {', '.join(sorted(IMPORTED_ONLY_BY[imported]))} import {imported}"
    return None


def test_every_module_has_a_level(package):
    for module in package.modules:
        room_of(module)


def test_a_module_without_a_level_is_a_clear_line():
    with pytest.raises(LookupError, match=r"mnemonics_tf\.loose needs a place in LEVELS"):
        room_of("loose")


def test_every_place_holds_a_module(package):
    for rooms in LEVELS:
        for room, names in rooms.items():
            assert set(names) <= set(package.modules), f"LEVELS of tools/draw_imports.py, {room}"


def test_imports_run_one_way(package):
    broken = [(one.place, one.imported, broken_rule(one)) for one in package.imports]
    messages = [f"{place} imports {name}: {rule}" for place, name, rule in broken if rule]
    assert not messages, "\n".join(messages)


def test_no_module_imports_itself_by_way_of_others(package):
    """Within a level too."""
    graph: dict[str, set[str]] = {}
    for one in package.imports:
        graph.setdefault(one.importer, set()).add(one.imported)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        cycle = error.args[1][::-1]
        pairs = set(zip(cycle, cycle[1:], strict=False))
        places = [one.place for one in package.imports if (one.importer, one.imported) in pairs]
        pytest.fail(f"imports go round: {' -> '.join(cycle)}, in {', '.join(places)}")


@pytest.mark.parametrize(
    ("importer", "imported", "rule"),
    [
        ("bilevel.learner", "exemplars.memory", "bilevel knows only foundations"),
        ("bilevel.cost", "monitoring.progress", "bilevel knows only foundations"),
        ("data.sources", "models.resnet", "data knows only"),
        ("models.resnet", "data.pipeline", "models knows only"),
        ("data.sources", "monitoring.summaries", "imports go down"),
        ("training.step", "phases.state", "imports go down"),
        ("phases.state", "experiment", "imports go down"),
        ("experiment", "extension.images", "imports go down"),
        ("run.files", "run.results", "imports go down"),
        ("run.directory", "data.protocol", "imports go down"),
        ("settings", "run.files", "imports go down"),
        ("evaluate", "train", "nothing imports a command"),
        ("experiment", "flags", "only evaluate, export, learn, report, train import flags"),
        ("phases.evaluate", "reporting.runs", "only report import reporting"),
        ("train", "reporting.runs", "only report import reporting"),
        ("experiment", "tools.chaos", "neither tools nor tests"),
        ("train", "experiment", None),
        ("report", "reporting.runs", None),
        ("run.results", "run.files", None),
        ("bilevel.learner", "settings", None),
        ("monitoring.summaries", "monitoring.progress", None),
    ],
)
def test_the_rule_that_an_import_breaks(importer, imported, rule):
    found = broken_rule(Import(importer, imported, "made_up.py:1"))
    assert (found is None) if rule is None else (rule in found)


def test_imports_in_functions_and_for_type_checking_count(tmp_path):
    folder = tmp_path / "mnemonics_tf"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "one.py").write_text("def f():\n    from mnemonics_tf import two\n    return two\n")
    (folder / "two.py").write_text(
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import mnemonics_tf.one\n"
    )
    assert set(draw_imports.read_imports(tmp_path).imports) == {
        Import("one", "two", "mnemonics_tf/one.py:2"),
        Import("two", "one", "mnemonics_tf/two.py:4"),
    }


def test_the_picture_is_that_of_the_imports(package):
    assert draw_imports.PICTURE.read_text("utf-8") == draw_imports.picture(package), (
        "docs/architecture.svg is behind the imports: run `python -m tools.draw_imports`"
    )


def test_the_page_of_the_architecture_names_what_is_there():
    text = (REPOSITORY / "docs" / "architecture.md").read_text("utf-8")
    paths = re.findall(r"`([\w./]+(?:\.py|/))`", text)
    assert len(paths) > 20
    for path in paths:
        assert any((folder / path).exists() for folder in (REPOSITORY, PACKAGE)), path
