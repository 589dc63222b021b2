"""Writes the BUILD files from what the sources import, so that targets never drift from the code.

Run `python tools/generate_build.py` after a module, a test or an import has come or gone. It writes
BUILD at the root and in every folder that holds Python sources, and takes away the BUILD that it
once wrote for a folder which holds none any more.

- A source is a target named as its file: data/sources.py is `//mnemonics_tf/data:sources`.
- A package's __init__.py is named as its folder: `//mnemonics_tf/data`.
- A package that a requirements file pins is an empty target, `//:pypi_absl_py`: pip installs it
  into the Python that Bazel runs. No rule reaches out to the network.

A target for each module, not for each folder: modules of two folders may import each other's
(run/results.py imports evaluation/, which imports exemplars/, which imports run/files.py).

The dependencies of a target are what its source imports, in functions and for type checking too.
Packages on the way to an imported module do not count: methods/__init__.py imports every method,
and a method that depended on it would depend on itself.
"""

import ast
import collections
import dataclasses
import pathlib
import re
import sys
from collections.abc import Container, Sequence

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
SOURCE_FOLDERS = ("mnemonics_tf", "tools", "tests")
REQUIREMENTS = ("requirements.txt", "requirements-dev.txt", "requirements-pytorch.txt")
TEST_MAIN = pathlib.PurePosixPath("tools/run_pytest.py")

#: packages whose import name is not their own name with underscores
IMPORT_NAMES = {
    "absl-py": "absl",
    "grpcio": "grpc",
    "pillow": "PIL",
    "protobuf": "google.protobuf",
    "scikit-learn": "sklearn",
    "tensorflow-serving-api": "tensorflow_serving",
}

HEADER = '"""{contents}; written by tools/generate_build.py."""\n'
PYTHON_RULES = "@rules_python//python:defs.bzl"
PYTEST_RULE = "//tools:pytest.bzl"

VISIBILITY = 'package(default_visibility = ["//visibility:public"])\n'

PINNED_PACKAGES = """\
# Empty: pip installs these into the Python that Bazel runs.
[
    py_library(name = name)
    for name in [
{names}
    ]
]
"""

#: Globs end where another BUILD file begins: each folder names its own files, and the root all.
FOLDER_FILES = """\
filegroup(
    name = "all_files",
    srcs = glob(["**"], exclude = ["**/__pycache__/**"]),
)
"""

ROOT_FILES = """\
# What a source may read that finds files by its own place.
filegroup(
    name = "repository_files",
    srcs = glob([
        "*",
        ".ci/*",
        "configs/**",
        "docs/**",
    ]) + [
{folders}
    ],
)
"""


@dataclasses.dataclass(frozen=True)
class Source:
    """A Python file of the repository, by its path from the root."""

    path: pathlib.PurePosixPath
    tree: ast.Module

    @property
    def module(self) -> str:
        """The name under which it is imported; a package's own for its __init__.py."""
        parts = self.path.with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def folder(self) -> str:
        """The folder whose BUILD has its target."""
        return str(self.path.parent)

    @property
    def target(self) -> str:
        """The name of its target within the folder."""
        return self.module.split(".")[-1]

    @property
    def label(self) -> str:
        """The label of its target, short where it is named as its folder."""
        package = f"//{self.folder}"
        is_folder = self.target == self.path.parent.name
        return package if is_folder else f"{package}:{self.target}"

    @property
    def is_test(self) -> bool:
        """Whether pytest collects it."""
        return self.path.parts[0] == "tests" and self.path.name.startswith("test_")

    @property
    def is_program(self) -> bool:
        """Whether it is run by its path, which its last statement tells."""
        last = self.tree.body[-1] if self.tree.body else None
        return isinstance(last, ast.If) and ast.unparse(last.test) == "__name__ == '__main__'"

    @property
    def reads_repository(self) -> bool:
        """Whether it finds files by its own place in the repository."""
        names = (node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name))
        return "__file__" in names


def read_sources(repository: pathlib.Path, folders: Sequence[str] = SOURCE_FOLDERS) -> list[Source]:
    """Returns every Python file in folders of the repository, sorted by path."""
    paths = sorted(p for folder in folders for p in (repository / folder).rglob("*.py"))
    return [
        Source(
            pathlib.PurePosixPath(path.relative_to(repository)), ast.parse(path.read_text("utf-8"))
        )
        for path in paths
    ]


def read_requirements(repository: pathlib.Path) -> dict[str, str]:
    """Returns the label of each pinned package, by the name that imports it."""
    targets = {}
    for file in REQUIREMENTS:
        for name in re.findall(
            r"^([\w.-]+)==", (repository / file).read_text("utf-8"), re.MULTILINE
        ):
            underscored = re.sub(r"[-_.]+", "_", name).lower()
            targets[IMPORT_NAMES.get(name, underscored)] = f"//:pypi_{underscored}"
    return targets


def imported_names(tree: ast.Module) -> dict[str, int]:
    """Returns the dotted names that a module imports, and the line of each.

    `from a import b` counts as `a.b`; imports in functions and for type checking count too.
    """
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name: node.lineno for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}": node.lineno for alias in node.names}
    return names


def longest_known(name: str, known: Container[str]) -> str:
    """Returns what a dotted name stands for: itself or the longest known name before it, or ""."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


def dependencies(source: Source, targets: dict[str, str]) -> set[str]:
    """Returns the labels that a source imports.

    Args:
        source: the importing file.
        targets: the label of each importable name, of the repository and of the pinned packages.

    Raises:
        SystemExit: if an import is neither in the repository, nor pinned, nor in Python itself.
    """
    found = set()
    for name in imported_names(source.tree):
        top_level = name.split(".")[0]
        if top_level in sys.stdlib_module_names:
            continue
        known = longest_known(name, targets)
        if not known:
            raise SystemExit(
                f"{source.path} imports {top_level}, which no folder holds and no file pins; "
                f"pin it in {REQUIREMENTS[0]}, or in {REQUIREMENTS[1]} if only tests need it"
            )
        found.add(targets[known])
    return found


def format_rule(kind: str, **attributes: str | list[str]) -> str:
    """Returns a rule as buildifier lays it out."""
    lines = []
    for key, value in attributes.items():
        if isinstance(value, str):
            lines.append(f'    {key} = "{value}",')
        elif len(value) == 1:
            lines.append(f'    {key} = ["{value[0]}"],')
        elif value:
            lines += [f"    {key} = [", *(f'        "{item}",' for item in value), "    ],"]
    return "\n".join([f"{kind}(", *lines, ")", ""])


def sorted_labels(labels: set[str], folder: str) -> list[str]:
    """Returns labels as the BUILD of a folder writes them: its own first, without the folder."""
    local = {re.sub(rf"^//{folder}(?=:)", "", label) for label in labels}
    local = {f":{folder.split('/')[-1]}" if label == f"//{folder}" else label for label in local}
    return sorted(local, key=lambda label: (not label.startswith(":"), label.split(":")))


def format_source(
    source: Source, needed: set[str], targets: dict[str, str], sources: list[Source]
) -> str:
    """Returns the rule of one source, which needs what it imports."""
    data = ["//:repository_files"] if source.reads_repository else []
    if source.is_test:
        # pytest imports these by itself: conftest.py in the folder of the test and those above.
        needed = (
            needed
            | {targets["pytest"]}
            | {
                other.label
                for other in sources
                if other.path.name == "conftest.py" and other.path.parent in source.path.parents
            }
        )
        return format_rule(
            "pytest_test",
            name=source.target,
            data=data,
            deps=sorted_labels(needed, source.folder),
        )
    is_program = source.is_program and source.path != TEST_MAIN
    return format_rule(
        "py_binary" if is_program else "py_library",
        name=source.target,
        srcs=[source.path.name],
        data=data,
        deps=sorted_labels(needed, source.folder),
    )


def format_folder(folder: str, rules: list[str]) -> str:
    """Returns the text of a folder's BUILD."""
    kinds = sorted({rule.partition("(")[0] for rule in rules})
    python_kinds = [kind for kind in kinds if kind != "pytest_test"]
    loads = [(PYTHON_RULES, python_kinds)] if python_kinds else []
    if "pytest_test" in kinds:
        loads.append((PYTEST_RULE, ["pytest_test"]))
    lines = [
        "load(" + ", ".join(f'"{name}"' for name in [file, *names]) + ")" for file, names in loads
    ]
    exported = [f'exports_files(["{TEST_MAIN.name}"])\n'] if folder == "tools" else []
    return "\n".join(
        [
            HEADER.format(contents=f"Every source of {folder}/"),
            *lines,
            "",
            VISIBILITY,
            *exported,
            *rules,
            FOLDER_FILES,
        ]
    )


def format_root(folders: list[str], packages: list[str]) -> str:
    """Returns the text of the BUILD at the root."""
    names = "\n".join(f'        "{label.removeprefix("//:")}",' for label in packages)
    files = "\n".join(f'        "//{folder}:all_files",' for folder in folders)
    return "\n".join(
        [
            HEADER.format(contents="Third-party packages and all files, by folder"),
            f'load("{PYTHON_RULES}", "py_library")\n',
            VISIBILITY,
            'exports_files(["pyproject.toml"])\n',
            PINNED_PACKAGES.format(names=names),
            ROOT_FILES.format(folders=files),
        ]
    )


def generate(repository: pathlib.Path) -> dict[str, str]:
    """Returns the text of every BUILD for the sources of a repository, by its path from the root.

    Raises:
        SystemExit: if two sources would get one name, or an import is not known.
    """
    sources = read_sources(repository)
    by_label: dict[str, Source] = {}
    for source in sources:
        other = by_label.setdefault(source.label, source)
        if other is not source:
            raise SystemExit(
                f"{other.path} and {source.path} would both be the target {source.label}; "
                "rename one of them"
            )
    packages = read_requirements(repository)
    targets = packages | {source.module: source.label for source in sources}
    needed = [dependencies(source, targets) for source in sources]
    rules = collections.defaultdict(list)
    for source, labels in zip(sources, needed, strict=True):
        rules[source.folder].append(format_source(source, labels, targets, sources))
    texts = {f"{folder}/BUILD": format_folder(folder, rules[folder]) for folder in sorted(rules)}
    pinned = sorted(set().union(*needed) & {*packages.values()})
    return {"BUILD": format_root(sorted(rules), pinned), **texts}


def written_before(repository: pathlib.Path) -> set[str]:
    """Returns the paths of the BUILD files in a repository, from its root."""
    folders = (repository / folder for folder in SOURCE_FOLDERS)
    paths = [repository / "BUILD", *(path for folder in folders for path in folder.rglob("BUILD"))]
    return {str(path.relative_to(repository)) for path in paths if path.is_file()}


def write(repository: pathlib.Path) -> None:
    """Writes every BUILD of a repository, and removes those of folders without sources."""
    texts = generate(repository)
    for path in written_before(repository) - set(texts):
        (repository / path).unlink()
    for path, text in texts.items():
        (repository / path).write_text(text, "utf-8")


if __name__ == "__main__":
    write(REPOSITORY)
