"""Writes BUILD from what the sources import, so that the targets never drift from the code.

Run `python tools/generate_build.py` after a module, a test or an import has come or gone.

- A module of mnemonics_tf/ is a target named by its path below that folder: data/sources.py is
  `:data_sources`, a package's __init__.py has the package's name, and train.py is `:train`.
- Files of tools/ keep their folder's name in front: `:tools_generate_build`.
- tests/data/test_sources.py is `:data_sources_test`.
- A package that a requirements file pins is an empty target, `:pypi_absl_py`: pip installs it into
  the Python that Bazel runs. No rule reaches out to the network.

The dependencies of a target are what its source imports, in functions and for type checking too.
Packages on the way to an imported module do not count: methods/__init__.py imports every method,
and a method that depended on it would depend on itself.
"""

import ast
import dataclasses
import pathlib
import re
import sys

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

HEADER = '''\
"""Targets of every module, program and test; written by tools/generate_build.py."""

load("@rules_python//python:defs.bzl", "py_binary", "py_library", "py_test")
'''

#: what a source may read that finds files by its own place
REPOSITORY_FILES = """\
filegroup(
    name = "repository_files",
    srcs = glob(
        [
            "*",
            ".ci/*",
            "configs/**",
            "docs/**",
            "mnemonics_tf/**",
            "tests/**",
            "tools/**",
        ],
        exclude = ["**/__pycache__/**"],
    ),
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
    def target(self) -> str:
        """The name of its target."""
        parts = self.module.split(".")
        if self.is_test:
            return "_".join([*parts[1:-1], parts[-1].removeprefix("test_"), "test"])
        if parts[0] == "mnemonics_tf" and len(parts) > 1:
            parts = parts[1:]
        return "_".join(parts)

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


def read_sources(repository: pathlib.Path) -> list[Source]:
    """Returns every Python file of the repository, sorted by path."""
    paths = sorted(p for folder in SOURCE_FOLDERS for p in (repository / folder).rglob("*.py"))
    return [
        Source(
            pathlib.PurePosixPath(path.relative_to(repository)), ast.parse(path.read_text("utf-8"))
        )
        for path in paths
    ]


def read_requirements(repository: pathlib.Path) -> dict[str, str]:
    """Returns the target of each pinned package, by the name that imports it."""
    targets = {}
    for file in REQUIREMENTS:
        for name in re.findall(
            r"^([\w.-]+)==", (repository / file).read_text("utf-8"), re.MULTILINE
        ):
            underscored = re.sub(r"[-_.]+", "_", name).lower()
            targets[IMPORT_NAMES.get(name, underscored)] = f"pypi_{underscored}"
    return targets


def imported_names(tree: ast.Module) -> set[str]:
    """Returns the dotted names that a module imports; `from a import b` counts as `a.b`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def dependencies(source: Source, targets: dict[str, str]) -> set[str]:
    """Returns the targets that a source imports.

    Args:
        source: the importing file.
        targets: the target of each importable name, of the repository and of the pinned packages.

    Raises:
        SystemExit: if an import is neither in the repository, nor pinned, nor in Python itself.
    """
    found = set()
    for name in imported_names(source.tree):
        top_level = name.split(".")[0]
        if top_level in sys.stdlib_module_names:
            continue
        while name and name not in targets:
            name = name.rpartition(".")[0]
        if not name:
            raise SystemExit(
                f"{source.path} imports {top_level}, which no folder holds and no file pins; "
                f"pin it in {REQUIREMENTS[0]}, or in {REQUIREMENTS[1]} if only tests need it"
            )
        found.add(targets[name])
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


def labels(targets: set[str]) -> list[str]:
    """Returns the labels of targets in this package, sorted."""
    return sorted(f":{target}" for target in targets)


def format_source(source: Source, targets: dict[str, str], sources: list[Source]) -> str:
    """Returns the rule of one source."""
    path = str(source.path)
    needed = dependencies(source, targets)
    data = [":repository_files"] if source.reads_repository else []
    if source.is_test:
        # pytest imports these by itself: conftest.py in the folder of the test and those above.
        needed |= {
            other.target
            for other in sources
            if other.path.name == "conftest.py" and other.path.parent in source.path.parents
        }
        return format_rule(
            "py_test",
            name=source.target,
            srcs=[path, f":{targets['tools.run_pytest']}"],
            args=[path],
            data=data or ["pyproject.toml"],
            main=str(TEST_MAIN),
            deps=labels(needed | {targets["pytest"]}),
        )
    is_program = source.is_program and source.path != TEST_MAIN
    return format_rule(
        "py_binary" if is_program else "py_library",
        name=source.target,
        srcs=[path],
        data=data,
        main=path if is_program else [],
        deps=labels(needed),
    )


def generate(repository: pathlib.Path) -> str:
    """Returns the text of BUILD for the sources of a repository.

    Raises:
        SystemExit: if two sources would get one name, or an import is not known.
    """
    sources = read_sources(repository)
    by_target: dict[str, Source] = {}
    for source in sources:
        other = by_target.setdefault(source.target, source)
        if other is not source:
            raise SystemExit(
                f"{other.path} and {source.path} would both be the target :{source.target}; "
                "rename one of them"
            )
    packages = read_requirements(repository)
    targets = packages | {source.module: source.target for source in sources}
    imported = {target for source in sources for target in dependencies(source, targets)}
    rules = [
        format_rule("py_library", name=name) for name in sorted(imported & {*packages.values()})
    ]
    rules.append(REPOSITORY_FILES)
    rules += [format_source(source, targets, sources) for source in sources]
    return "\n".join([HEADER, *rules])


def main() -> None:
    """Writes BUILD at the root of the repository."""
    (REPOSITORY / "BUILD").write_text(generate(REPOSITORY), "utf-8")


if __name__ == "__main__":
    main()
