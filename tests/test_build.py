"""Tests of BUILD and the pins: what Bazel and pip are told is what the sources import."""

import ast
import collections
import graphlib
import importlib.metadata
import pathlib
import re
import sys

import pytest

from tools import generate_build

ROOT = pathlib.Path(__file__).resolve().parent.parent
PYTHON_RULES = ("py_library", "py_binary", "py_test")
FOLDERS = ("mnemonics_tf", "tools", "tests")


def read_build(text):
    """Returns the rules of a BUILD file by name, by running it with rules that only take notes."""
    rules = {}

    def rule(kind):
        def note(name, **attributes):
            assert name not in rules, f"two targets are named {name}"
            rules[name] = {"kind": kind, **attributes}

        return note

    kinds = {kind: rule(kind) for kind in (*PYTHON_RULES, "filegroup")}
    exec(text, kinds | {"load": lambda *_: None, "glob": lambda patterns, exclude: patterns})
    return rules


def imported_names(path):
    """Returns for each import of a file the names it may mean, the longest first."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ([alias.name] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ([f"{node.module}.{alias.name}", node.module] for alias in node.names)


def module_file(name):
    """Returns the path of a module of the repository, or None if it has no such module."""
    base = name.replace(".", "/")
    paths = (f"{base}.py", f"{base}/__init__.py")
    return next((path for path in paths if (ROOT / path).is_file()), None)


@pytest.fixture(scope="module")
def rules():
    return read_build((ROOT / "BUILD").read_text("utf-8"))


@pytest.fixture(scope="module")
def owners(rules):
    """The targets in whose srcs each file stands."""
    found = collections.defaultdict(list)
    for name, rule in rules.items():
        if rule["kind"] in PYTHON_RULES:
            for source in rule.get("srcs", []):
                found[source].append(name)
    return found


def test_build_is_what_the_generator_writes():
    assert (ROOT / "BUILD").read_text("utf-8") == generate_build.generate(ROOT), (
        "BUILD is behind the sources: run `python tools/generate_build.py`"
    )


def test_every_source_stands_in_exactly_one_target(owners):
    files = {str(p.relative_to(ROOT)) for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")}
    listed = {file: targets for file, targets in owners.items() if not file.startswith(":")}
    assert {file: len(targets) for file, targets in listed.items()} == dict.fromkeys(files, 1)


def test_entries_are_programs_and_tests_are_tests(rules, owners):
    for file, (target, *_) in owners.items():
        path = pathlib.PurePosixPath(file)
        if path.name.startswith("test_"):
            assert rules[target]["kind"] == "py_test"
            assert rules[target]["args"] == [file], "pytest would run something else"
        elif path.parts[0] == "mnemonics_tf":
            is_entry = "__main__" in (ROOT / path).read_text("utf-8")
            assert rules[target]["kind"] == ("py_binary" if is_entry else "py_library")


def matching_label(names, given, owners, distributions):
    """Returns the label in `given` that an import of `names` asks for, or None."""
    local = next(filter(None, map(module_file, names)), None)
    if local:
        wanted = {f":{target}" for target in owners[local]}
    else:
        top_level = names[0].split(".")[0]
        # PyTorch is not installed beside the tests; its package has the name of its module.
        packages = distributions.get(top_level, [top_level])
        wanted = {":pypi_" + package.lower().replace("-", "_") for package in packages}
    return next(iter(wanted & given), None)


def test_dependencies_are_what_the_sources_import(rules, owners):
    distributions = importlib.metadata.packages_distributions()
    conftests = {f":{owners[file][0]}" for file in owners if file.endswith("conftest.py")}
    for file, (target, *_) in owners.items():
        if file.startswith(":"):
            continue
        given = set(rules[target].get("deps", []))
        used = {":pypi_pytest"} if rules[target]["kind"] == "py_test" else set()
        for names in imported_names(ROOT / file):
            if names[0].split(".")[0] not in sys.stdlib_module_names:
                label = matching_label(names, given, owners, distributions)
                assert label, f":{target} lacks what `import {names[0]}` asks for"
                used.add(label)
        assert given - conftests == used - conftests, (
            f":{target} depends on what it does not import"
        )


def test_no_target_depends_on_itself(rules):
    graph = {f":{name}": rule.get("deps", []) for name, rule in rules.items()}
    assert set(graph) >= {dependency for deps in graph.values() for dependency in deps}
    graphlib.TopologicalSorter(graph).prepare()


def reachable(rules, target):
    """Returns the files that a target needs, however indirectly."""
    files, waiting = set(), [target]
    while waiting:
        rule = rules[waiting.pop()]
        new = set(rule.get("srcs", [])) - files
        files |= new
        if new:
            waiting += [label.removeprefix(":") for label in rule.get("deps", [])]
    return files


@pytest.mark.parametrize(
    ("importer", "unknown_to_it"),
    [
        ("mnemonics_tf/data/", "mnemonics_tf/models/"),
        ("mnemonics_tf/models/", "mnemonics_tf/data/"),
        ("mnemonics_tf/bilevel/sweep.py", "mnemonics_tf/data/"),
        ("mnemonics_tf/bilevel/sweep.py", "mnemonics_tf/models/"),
    ],
)
def test_layers_do_not_know_each_other(rules, owners, importer, unknown_to_it):
    importers = [target for file in owners if file.startswith(importer) for target in owners[file]]
    assert importers
    for target in importers:
        assert not [file for file in reachable(rules, target) if file.startswith(unknown_to_it)]


def test_nothing_of_the_package_imports_an_entry(rules):
    """Tests do, and programs of tools/ that take an entry's flags."""
    entries = {f":{name}" for name, rule in rules.items() if rule["kind"] == "py_binary"}
    for name, rule in rules.items():
        if any(source.startswith("mnemonics_tf/") for source in rule.get("srcs", [])):
            assert not entries & set(rule.get("deps", [])), f":{name}"


@pytest.mark.parametrize("file", generate_build.REQUIREMENTS)
def test_every_requirement_is_pinned_exactly(file):
    lines = [line.split("#")[0].strip() for line in (ROOT / file).read_text("utf-8").splitlines()]
    for line in filter(None, lines):
        assert re.fullmatch(r"[\w.-]+==\d[\w.]*|-r requirements\.txt", line)


@pytest.fixture
def small_repository(tmp_path):
    """A repository of one module, with pins."""
    (tmp_path / "mnemonics_tf").mkdir()
    (tmp_path / "requirements.txt").write_text("absl-py==1.0\nnumpy==2.0\n")
    (tmp_path / "requirements-dev.txt").write_text("-r requirements.txt\npytest==9.0\n")
    (tmp_path / "requirements-pytorch.txt").write_text("")
    (tmp_path / "mnemonics_tf" / "one.py").write_text("import os\nfrom absl import flags\n")
    return tmp_path


def test_generator_finds_imports_inside_functions(small_repository):
    source = "def load():\n    from mnemonics_tf import one\n    return one\n"
    (small_repository / "mnemonics_tf" / "two.py").write_text(source)
    rules = read_build(generate_build.generate(small_repository))
    assert rules["one"]["deps"] == [":pypi_absl_py"]
    assert rules["two"]["deps"] == [":one"]
    assert "pypi_numpy" not in rules


def test_generator_refuses_an_import_without_a_pin(small_repository):
    (small_repository / "mnemonics_tf" / "two.py").write_text("import pandas\n")
    with pytest.raises(SystemExit, match=r"two\.py imports pandas.*requirements\.txt"):
        generate_build.generate(small_repository)


def test_generator_refuses_two_sources_of_one_name(small_repository):
    (small_repository / "mnemonics_tf" / "a").mkdir()
    for file in ("a/b.py", "a_b.py"):
        (small_repository / "mnemonics_tf" / file).write_text("")
    with pytest.raises(SystemExit, match="would both be the target :a_b"):
        generate_build.generate(small_repository)
