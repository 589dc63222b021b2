"""A user's own code by `package.module:Name`: it runs where it is asked for, and nowhere else."""

import os
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf

from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluate import evaluate
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.flags import settings_from_flags
from mnemonics_tf.models.architecture import Architecture
from mnemonics_tf.registry import own_code
from mnemonics_tf.report import report
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_json, write_json

pytestmark = pytest.mark.slow

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]

#: every name notes in a file that it was used, and the module that it was imported
MODULE = """
import pathlib

import keras

from mnemonics_tf.bilevel import Sweep
from mnemonics_tf.bilevel.objectives.unrolled_training import UnrolledTraining
from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.exemplars.codecs.webp_lossless import LosslessWebP
from mnemonics_tf.methods.lwf import LwF
from mnemonics_tf.models.resnet import Backbone


def note(name):
    with open(pathlib.Path(__file__).with_suffix(".txt"), "a") as file:
        file.write(name + "\\n")


note("imported")


class Method(LwF):
    def loss_parts(self, batch, outputs, old_outputs):
        note("method")
        return super().loss_parts(batch, outputs, old_outputs)


def build(image_shape, depth, seed):
    note("backbone")
    return keras.Sequential(
        [
            keras.Input(image_shape),
            keras.layers.Flatten(),
            keras.layers.Dense(depth, "relu", kernel_initializer=keras.initializers.HeNormal(seed)),
        ]
    )


Dense = Backbone(build, lambda depth: None)


def digits(data_dir, download, options):
    note("dataset")
    return load_digits()


def first(features, count, generator):
    note("selection")
    assert features.shape[1] > 0  # it may need them
    return range(count)


def estimator(problem, truncated_steps, jit_compile):
    note("meta_gradient")
    return Sweep(problem)


class Objective(UnrolledTraining):
    def value_and_gradient(self, *arguments):
        note("objective")
        return super().value_and_gradient(*arguments)


class Codec(LosslessWebP):
    def decode(self, code):
        note("codec")
        return super().decode(code)
"""

OWN = {
    "method": "Method",
    "backbone": "Dense",
    "dataset": "digits",
    "mnemonics_start": "first",
    "meta_gradient": "estimator",
    "objective": "Objective",
    "codec": "Codec",
}


class Place:
    """A working directory with a module in it, and programs that are called there."""

    def __init__(self, root: pathlib.Path, module: str):
        self.root, self.module = root, module
        (root / f"{module}.py").write_text(MODULE)
        self.flags = [f"--{name}={module}:{own}" for name, own in OWN.items()]

    def used(self) -> set[str]:
        """What was used since it was last asked."""
        path = self.root / f"{self.module}.txt"
        names = set(path.read_text().split()) if path.exists() else set()
        path.unlink(missing_ok=True)
        return names

    def call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", f"mnemonics_tf.{program}", *arguments],
            cwd=self.root,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("place"), "mine_in_commands")


@pytest.fixture(scope="module")
def trained(place) -> set[str]:
    """A run with code of one's own wherever that can be; what of it was used."""
    place.call(
        "train",
        *("--run_dir=run", *place.flags, "--base_classes=9", "--num_phases=1"),
        *("--base_epochs=1", "--epochs=1", "--finetune_epochs=1", "--exemplars=mnemonics"),
        *("--exemplars_per_class=2", "--inner_steps=2", "--outer_steps=1"),
    )
    return place.used()


@pytest.fixture
def importable(place, monkeypatch):
    """The module can be imported here too: that it was not is no accident."""
    monkeypatch.syspath_prepend(place.root)
    yield
    sys.modules.pop(place.module, None)


def test_a_run_uses_all_of_it(trained):
    assert trained == {"imported", "selection", *(OWN.keys() - {"mnemonics_start"})}


@pytest.mark.usefixtures("importable")
def test_scoring_runs_it_where_it_is_named_again(place, trained):
    with pytest.raises(UserError, match="if you trust it, pass .*--method=mine_in_commands:Method"):
        evaluate(str(place.root / "run"), "", -1, False)
    assert place.used() == set()
    place.call("evaluate", "--run_dir=run", *place.flags)
    assert place.used() == {"imported", "backbone", "codec", "dataset"}


@pytest.mark.usefixtures("importable")
def test_scoring_with_some_of_it_named_or_otherwise(place, trained):
    run, named = (
        str(place.root / "run"),
        {name: f"mine_in_commands:{own}" for name, own in OWN.items()},
    )
    del named["method"]
    with pytest.raises(UserError, match="pass --method=mine_in_commands:Method too"):
        evaluate(run, "", -1, False, named)
    with pytest.raises(UserError, match="--method=lwf: .* run with --method=mine_in_commands:"):
        evaluate(run, "", -1, False, named | {"method": "lwf"})
    assert place.used() == set()


@pytest.mark.usefixtures("importable")
def test_a_report_needs_none_of_it(place, trained, capsys):
    output = place.root / "report.html"
    assert report([str(place.root / "run")], output, "") == 0
    assert "it would run code that the run names" in capsys.readouterr().err
    assert place.used() == set()
    page = output.read_text()
    assert "mine_in_commands:Method, mnemonics" in page


@pytest.fixture
def in_process(tmp_path, monkeypatch) -> Place:
    monkeypatch.syspath_prepend(tmp_path)
    return Place(tmp_path, "mine_in_process")


def test_a_selection_of_one_s_own_alone(in_process, parse, tmp_path):
    wanted = settings_from_flags(parse("--exemplars=mine_in_process:first", "--base_classes=9",
                                       "--num_phases=1", f"--run_dir={tmp_path}/run"))  # fmt: skip
    experiment = Experiment(wanted, load_digits(), tf.distribute.get_strategy())
    state = experiment.begin_phase(experiment.protocol.phases[0])
    experiment.run_stage("exemplars", state)
    assert "selection" in in_process.used()
    first = state.training_set.subset(state.training_set.indices_of(0)[:1]).load_all()
    assert (state.memory.images[0] == first[0]).all()


def test_a_backbone_of_another_kind(in_process):
    with pytest.raises(UserError, match="--backbone=mine_in_process:build is function: expected"):
        Architecture("mine_in_process:build", 8, (8, 8, 1), "linear")


def test_data_sets_of_tensorflow_datasets_are_no_code(parse):
    assert own_code(settings_from_flags(parse("--dataset=tfds:mnist"))) == {}


@pytest.mark.usefixtures("importable")
def test_a_stranger_s_run_imports_nothing(place, trained, tmp_path):
    """Wherever its settings stand: groups are not what they are read by."""
    directory = RunDirectory(tmp_path / "stranger")
    groups = read_json(RunDirectory(place.root / "run").settings)
    for group in groups.values():
        for name in OWN:
            group.pop(name, None)
    groups["any"] = {"backbone": "mine_in_commands:Dense"}
    write_json(directory.settings, groups)
    with pytest.raises(UserError, match="pass --backbone=mine_in_commands:Dense too"):
        evaluate(str(directory.root), "", -1, False)
    assert place.used() == set()
