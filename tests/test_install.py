"""The package as pip installs it: nothing but itself, and commands that work from anywhere."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mnemonics_tf

pytestmark = pytest.mark.slow

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]

#: packages that an extra brings, and that the demo's first phase can do without
ABSENT = ("matplotlib", "tensorflow_datasets", "tensorflow_serving")


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package's wheel; built from a copy, for a build leaves files beside its sources."""
    copy = tmp_path_factory.mktemp("source") / "repository"
    hidden = shutil.ignore_patterns(".*", "__pycache__", "runs")
    shutil.copytree(REPOSITORY, copy, ignore=hidden)
    out = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", out, copy)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def scripts(wheel, tmp_path_factory):
    """The commands' folder in a new environment, which sees this one's packages but the absent."""
    root = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", root)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", root)
    run(*pip, "install", "--no-deps", "--no-index", wheel)
    packages = next(root.glob("lib/python*/site-packages"))
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for name in ABSENT:
        absent = f"raise ModuleNotFoundError('No module named {name}', name='{name}')\n"
        (packages / f"{name}.py").write_text(absent)
    return root / "bin"


@pytest.fixture(scope="module")
def first_phase(scripts, tmp_path_factory):
    """A folder that holds a run of the demo's first phase, and what the command printed."""
    folder = tmp_path_factory.mktemp("elsewhere")
    small = ("--run_dir=run", "--last_phase=0", "--depth=8", "--base_epochs=1")
    return folder, run(scripts / "mnemonics-train", *small, cwd=folder)


def test_the_wheel_holds_the_package_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "mnemonics_tf",
        f"mnemonics_tf-{mnemonics_tf.__version__}.dist-info",
    }
    modules = {str(p.relative_to(REPOSITORY)) for p in REPOSITORY.glob("mnemonics_tf/**/*.py")}
    assert modules < set(names)
    others = {n for n in names if n.startswith("mnemonics_tf/")} - modules
    assert others == {
        "mnemonics_tf/py.typed",
        "mnemonics_tf/__init__.pyi",
        "mnemonics_tf/data/imagenet_synsets.txt",
    }


def test_a_command_tells_its_version(scripts):
    told = run(scripts / "mnemonics-train", "--version")
    assert told == f"mnemonics_tf {mnemonics_tf.__version__}\n"


def test_the_first_phase_runs_from_another_folder_without_the_extras(first_phase):
    folder, told = first_phase
    results = json.loads((folder / "run" / "results.json").read_text())
    assert results["packages"]["mnemonics_tf"] == mnemonics_tf.__version__
    assert "matplotlib is not installed (pip install 'mnemonics-tf[report]')" in told


def test_the_other_commands_go_on_from_it(scripts, first_phase):
    folder, _ = first_phase
    assert "phase 0" in run(scripts / "mnemonics-evaluate", "--run_dir=run", cwd=folder)
    run(scripts / "mnemonics-report", "run/results.json", cwd=folder)
    assert (folder / "report.html").exists()


def test_the_package_is_that_of_the_environment(scripts, tmp_path):
    program = "import sys, mnemonics_tf; print(mnemonics_tf.__file__, 'tensorflow' in sys.modules)"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    file, imported = run(scripts / "python", "-c", program, cwd=tmp_path, env=environment).split()
    assert pathlib.Path(file).is_relative_to(scripts.parent)
    assert imported == "False", "importing the package alone must not take TensorFlow's time"


def test_ranges_hold_what_is_pinned():
    pins = {}
    for file in ("requirements.txt", "requirements-dev.txt"):
        text = (REPOSITORY / file).read_text("utf-8")
        found = re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE)
        pins |= {canonicalize_name(name): version for name, version in found}
    ranges = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]
    for requirement in map(Requirement, ranges):
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement
