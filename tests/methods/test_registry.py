"""What holds for every method, what is refused, the guide to a new method, the flag files."""

import dataclasses
import itertools
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.data.protocol import ClassIncrementalProtocol
from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluation.evaluator import HEADS
from mnemonics_tf.exemplars.selection import SELECTIONS
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.flags import settings_from_flags
from mnemonics_tf.methods import METHODS
from mnemonics_tf.methods.base import MeanOver, Method
from mnemonics_tf.models.classifiers import CLASSIFIERS
from mnemonics_tf.models.incremental import Outputs
from mnemonics_tf.run.naming import default_run_dir
from mnemonics_tf.settings import (
    AdjustmentSettings,
    ModelSettings,
    ProtocolSettings,
    RunSettings,
    Settings,
    TrainingSettings,
)
from tools.check_against_pytorch import make_case, split_kernel, step

ROOT = pathlib.Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "adding_a_method.md"


# What every method keeps to


@pytest.mark.parametrize("name", METHODS)
def test_parts_are_one_finite_number_per_example(name):
    method = METHODS[name](TrainingSettings())
    assert method.classifier in CLASSIFIERS
    assert method.prediction_head in HEADS
    generator = np.random.default_rng(0)
    for phase in ClassIncrementalProtocol(range(5), 3, 1).phases:
        features = tf.constant(generator.normal(size=(6, 4)), tf.float32)
        logits = generator.normal(size=(6, phase.num_seen)).astype(np.float32)
        old_logits = tf.constant(logits[:, : phase.num_old])
        outputs = Outputs(features, tf.constant(logits), 1.0)
        old_outputs = Outputs(features + 1, old_logits, 1.0) if phase.index else None
        batch = {
            "label": tf.constant(np.arange(6) % phase.num_seen, tf.int32),
            "weight": tf.fill([6], 1 / 6),
        }
        parts = method.loss_parts(batch, outputs, old_outputs)
        assert "classification" in parts
        for part in parts.values():
            part = part.values if isinstance(part, MeanOver) else part
            assert part.shape == [6]
            assert np.isfinite(part).all()


# Combinations


@pytest.fixture(scope="module")
def digits():
    return load_digits()


def prepare(digits, tmp_path, **values) -> None:
    """Does what a run does before it begins."""
    values = {"base_classes": 8, "num_phases": 2} | values
    settings = Settings(RunSettings(run_dir=str(tmp_path / "run"))).changed(**values)
    Experiment(settings, digits, tf.distribute.get_strategy()).check_begin()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("exemplars", [*SELECTIONS, "mnemonics"])
@pytest.mark.parametrize("adjust", [False, True])
def test_every_combination_is_taken_or_refused(digits, tmp_path, method, exemplars, adjust):
    in_vain = ["--exemplars=mnemonics"] * (exemplars == "mnemonics")
    in_vain += ["--adjust_old_exemplars"] * adjust
    for transfer, finetune_epochs in itertools.product([False, True], [0, 1]):
        values = {
            "weight_transfer": transfer,
            "method": method,
            "finetune_epochs": finetune_epochs,
            "exemplars": exemplars,
            "adjust_old_exemplars": adjust,
        }
        if method == "joint" and in_vain:
            expected = f"--method=joint with {' and '.join(in_vain)}: this method trains on all"
            with pytest.raises(UserError, match=expected):
                prepare(digits, tmp_path, **values)
        else:
            prepare(digits, tmp_path, **values)


@pytest.mark.parametrize(
    ("training", "exemplar", "reason"),
    [
        ({}, {"exemplars_per_class": 1}, "holds out 1 images .* phase 1 .* no more than 1"),
        ({"correction_share": 1.0}, {}, "holds out 20 images .* no more than 20.*correction_share"),
        ({}, {"exemplars_total": 17}, "holds out 1 images .* phase 2 .* no more than 1"),
    ],
    ids=["one exemplar", "all exemplars", "total budget"],
)
def test_bic_needs_more_exemplars_than_it_holds_out(digits, tmp_path, training, exemplar, reason):
    prepare(digits, tmp_path, method="lwf", **training, **exemplar)
    with pytest.raises(UserError, match=f"--method=bic {reason}"):
        prepare(digits, tmp_path, method="bic", **training, **exemplar)


def test_bic_without_later_phases_needs_no_exemplars(digits, tmp_path):
    prepare(
        digits,
        tmp_path,
        base_classes=10,
        num_phases=0,
        method="bic",
        exemplars_per_class=1,
    )


# The guide


@pytest.mark.slow
def test_the_guide_makes_a_method_that_trains(monkeypatch):
    text = GUIDE.read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    ((name, class_name),) = re.findall(r'^    "(\w+)": (\w+),$', text, re.MULTILINE)
    assert f"--method={name}" in text
    assert f"methods/{name}.py" in text
    namespace = {"__name__": name}
    exec(example, namespace)
    monkeypatch.setitem(METHODS, name, namespace[class_name])

    case = make_case(name, transfer=False)
    before = split_kernel(case.model.state(), case.phase.num_old)
    results = step(case)
    parts = {key: value for key, value in results.items() if key.startswith("part:")}
    assert set(parts) == {"part:classification", "part:feature_distillation"}
    assert all(value > 0 for value in parts.values())
    for path in ("stem/kernel", "classifier/old_kernel", "classifier/new_kernel"):
        assert np.abs(results[f"model:{path}"] - before[path]).max() > 1e-4


def test_the_guide_names_every_member_of_a_method():
    text = GUIDE.read_text("utf-8")
    members = {name for name in vars(Method) if not name.startswith("_")}
    for member in members:
        assert f"`{member}" in text, member


# Flag files


@pytest.mark.parametrize("name", ["lwf", "icarl", "bic", "lucir"])
def test_flag_files_of_the_paper_s_tables(parse, monkeypatch, name):
    monkeypatch.chdir(ROOT)
    plain, with_plug_in = (
        settings_from_flags(parse(f"--flagfile=configs/cifar100_{name}{suffix}.flags"))
        for suffix in ("", "_mnemonics")
    )
    assert plain.training == dataclasses.replace(with_plug_in.training, finetune_epochs=0)
    assert (plain.training.method, with_plug_in.training.finetune_epochs) == (name, 50)
    assert (plain.exemplar.exemplars, with_plug_in.exemplar.exemplars) == ("herding", "mnemonics")
    for settings, plugged in ((plain, False), (with_plug_in, True)):
        assert settings.model == ModelSettings(depth=32, weight_transfer=plugged)
        assert settings.adjustment == AdjustmentSettings(adjust_old_exemplars=plugged)
        assert settings.protocol == ProtocolSettings("cifar100", base_classes=50, num_phases=5)
        assert (settings.training.base_epochs, settings.training.epochs) == (160, 160)
    assert default_run_dir(plain) != default_run_dir(with_plug_in)
