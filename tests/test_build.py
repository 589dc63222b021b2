"""Tests of BUILD files and pins: what Bazel and pip are told is what the sources import."""

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
KINDS = ("py_library", "py_binary", "pytest_test")
FOLDERS = ("mnemonics_tf", "tools", "tests")


def absolute(label, package):
    """Returns a label in full: `//package:target`."""
    if label.startswith(":"):
        return f"//{package}{label}"
    return label if ":" in label else f"{label}:{label.rsplit('/', 1)[-1]}"


def read_build(text, package):
    """Returns the rules of a BUILD file by label, by running it with rules that only take notes.

    Labels and files are written in full: `//package:target`, `package/file`.
    """
    rules = {}

    def rule(kind):
        def note(name, srcs=(), deps=(), **attributes):
            label = f"//{package}:{name}"
            assert label not in rules, f"two targets are {label}"
            if kind == "pytest_test":
                srcs = [f"{name}.py"]
            rules[label] = {
                "kind": kind,
                "srcs": [f"{package}/{source}" for source in srcs],
                "deps": [absolute(dependency, package) for dependency in deps],
                **attributes,
            }

        return note

    functions = {kind: rule(kind) for kind in KINDS} | {
        "filegroup": lambda **_: None,
        "glob": lambda patterns, **_: patterns,
        "load": lambda *_: None,
        "package": lambda **_: None,
        "exports_files": lambda _: None,
    }
    exec(text, functions)
    return rules


def read_builds(texts):
    """Returns the rules of many BUILD files by label, from their texts by path."""
    rules = {}
    for path, text in texts.items():
        rules |= read_build(text, path.rpartition("/")[0])
    return rules


def builds_on_disk():
    """Returns the text of each BUILD file of the repository by its path."""
    paths = [ROOT / "BUILD", *(path for f in FOLDERS for path in (ROOT / f).rglob("BUILD"))]
    return {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in paths}


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
    return read_builds(builds_on_disk())


@pytest.fixture(scope="module")
def owners(rules):
    """The targets in whose srcs each file stands."""
    found = collections.defaultdict(list)
    for label, rule in rules.items():
        for source in rule["srcs"]:
            found[source].append(label)
    return found


def test_builds_are_what_the_generator_writes():
    generated, found = generate_build.generate(ROOT), builds_on_disk()
    wrong = [path for path in generated | found if generated.get(path) != found.get(path)]
    assert not wrong, "behind the sources: run `python tools/generate_build.py`"


def test_every_source_stands_in_exactly_one_target(owners):
    files = {str(p.relative_to(ROOT)) for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")}
    assert {file: len(targets) for file, targets in owners.items()} == dict.fromkeys(files, 1)


def test_targets_stand_in_the_folder_of_their_source(owners):
    for file, (target, *_) in owners.items():
        assert target.partition(":")[0] == "//" + file.rpartition("/")[0]


def test_entries_are_programs_and_tests_are_tests(rules, owners):
    for file, (target, *_) in owners.items():
        path = pathlib.PurePosixPath(file)
        if path.name.startswith("test_"):
            assert rules[target]["kind"] == "pytest_test"
        elif path.parts[0] == "mnemonics_tf":
            is_entry = "__main__" in (ROOT / path).read_text("utf-8")
            assert rules[target]["kind"] == ("py_binary" if is_entry else "py_library")


def test_every_build_lets_other_folders_use_it():
    for path, text in builds_on_disk().items():
        assert 'package(default_visibility = ["//visibility:public"])' in text, path


def test_the_root_lists_the_files_of_every_folder():
    """Its globs end where another BUILD begins."""
    folders = {path.rpartition("/")[0] for path in builds_on_disk()} - {""}
    assert {f'"//{folder}:all_files"' for folder in folders} == set(
        re.findall(r'"//\S+:all_files"', (ROOT / "BUILD").read_text("utf-8"))
    )


def matching_label(names, given, owners, distributions):
    """Returns the label in `given` that an import of `names` asks for, or None."""
    local = next(filter(None, map(module_file, names)), None)
    if local:
        wanted = set(owners[local])
    else:
        top_level = names[0].split(".")[0]
        # PyTorch is not installed beside the tests; its package has the name of its module.
        packages = distributions.get(top_level, [top_level])
        wanted = {"//:pypi_" + package.lower().replace("-", "_") for package in packages}
    return next(iter(wanted & given), None)


def test_dependencies_are_what_the_sources_import(rules, owners):
    distributions = importlib.metadata.packages_distributions()
    conftests = {owners[file][0] for file in owners if file.endswith("conftest.py")}
    for file, (target, *_) in owners.items():
        given = set(rules[target]["deps"])
        used = {"//:pypi_pytest"} if rules[target]["kind"] == "pytest_test" else set()
        for names in imported_names(ROOT / file):
            if names[0].split(".")[0] not in sys.stdlib_module_names:
                label = matching_label(names, given, owners, distributions)
                assert label, f"{target} lacks what `import {names[0]}` asks for"
                used.add(label)
        assert given - conftests == used - conftests, f"{target} depends on what it does not import"


def test_no_target_depends_on_itself(rules):
    graph = {label: rule["deps"] for label, rule in rules.items()}
    assert set(graph) >= {dependency for deps in graph.values() for dependency in deps}
    graphlib.TopologicalSorter(graph).prepare()


def reachable(rules, target):
    """Returns the targets that a target needs, however indirectly."""
    found, waiting = set(), [target]
    while waiting:
        new = set(rules[waiting.pop()]["deps"]) - found
        found |= new
        waiting += new
    return found


def test_commands_reach_the_registries_that_settings_name(rules, owners):
    """They are looked up by name, not imported, where the settings are made into flags."""
    settings = (ROOT / "mnemonics_tf" / "settings.py").read_text("utf-8")
    registries = re.findall(r'registry="([\w.]+):\w+"', settings)
    assert registries
    commands = {
        command: reachable(rules, command)
        for command, rule in rules.items()
        if rule["kind"] == "py_binary" and "//mnemonics_tf:flags" in rule["deps"]
    }
    # Who only opens a run defines no flags of settings.
    trains = {
        c: reached for c, reached in commands.items() if "//mnemonics_tf:experiment" in reached
    }
    assert {"//mnemonics_tf:train", "//mnemonics_tf:learn"} <= set(trains)
    for command, reached in trains.items():
        needed = {label for name in registries for label in owners[module_file(name)]}
        assert needed <= reached, command


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
    rules = read_builds(generate_build.generate(small_repository))
    assert rules["//mnemonics_tf:one"]["deps"] == ["//:pypi_absl_py"]
    assert rules["//mnemonics_tf:two"]["deps"] == ["//mnemonics_tf:one"]
    assert "//:pypi_numpy" not in rules


def test_generator_writes_the_labels_of_other_folders(small_repository):
    folder = small_repository / "mnemonics_tf" / "a"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from mnemonics_tf import one\nfrom mnemonics_tf.a import b"
    )
    (folder / "b.py").write_text("")
    (small_repository / "mnemonics_tf" / "two.py").write_text("import mnemonics_tf.a\n")
    texts = generate_build.generate(small_repository)
    assert (
        'deps = [\n        ":b",\n        "//mnemonics_tf:one",\n    ]'
        in texts["mnemonics_tf/a/BUILD"]
    )
    assert 'deps = ["//mnemonics_tf/a"]' in texts["mnemonics_tf/BUILD"]


def test_generator_refuses_an_import_without_a_pin(small_repository):
    (small_repository / "mnemonics_tf" / "two.py").write_text("import pandas\n")
    with pytest.raises(SystemExit, match=r"two\.py imports pandas.*requirements\.txt"):
        generate_build.generate(small_repository)


def test_generator_refuses_two_sources_of_one_name(small_repository):
    (small_repository / "mnemonics_tf" / "a").mkdir()
    for file in ("a/a.py", "a/__init__.py"):
        (small_repository / "mnemonics_tf" / file).write_text("")
    with pytest.raises(SystemExit, match="would both be the target //mnemonics_tf/a;"):
        generate_build.generate(small_repository)


def test_generator_removes_the_build_of_a_folder_without_sources(small_repository):
    folder = small_repository / "mnemonics_tf" / "a"
    folder.mkdir()
    (folder / "b.py").write_text("")
    generate_build.write(small_repository)
    assert (folder / "BUILD").is_file()
    (folder / "b.py").unlink()
    generate_build.write(small_repository)
    assert not (folder / "BUILD").exists()
    assert set(generate_build.generate(small_repository)) == {"BUILD", "mnemonics_tf/BUILD"}
