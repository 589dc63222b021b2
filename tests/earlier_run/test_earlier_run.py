"""Runs of an earlier version go on being read: scored, reported, and taken from.

The archive holds what commit 3e9a04a wrote: `finished`, a run of

    python -m mnemonics_tf.train --depth=8 --base_classes=6 --num_phases=2 --base_epochs=4 \
        --epochs=3 --finetune_epochs=2 --method=lucir --weight_transfer --learning_rate=0.05 \
        --exemplars=mnemonics --exemplars_per_class=4 --inner_steps=10 --outer_steps=6 \
        --outer_batch_size=200 --exemplars_per_step=16 --validation_every=3 \
        --adjust_old_exemplars --adjust_steps=3

without its exports, TensorBoard's files and its log; and `unfinished`, the checkpoint of the same
run where phase 1 has trained its model and is about to make exemplars.
"""

import json
import logging
import pathlib
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf import report as report_module
from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluate import evaluate
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.reporting.comparability import warnings
from mnemonics_tf.reporting.groups import group_runs
from mnemonics_tf.reporting.runs import load_runs
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_arrays, read_json, write_json
from mnemonics_tf.settings import RunSettings, Settings
from tools.reproduce_runs import phase0_of

pytestmark = pytest.mark.slow

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]

#: by the names of the flags, as the run was begun
CHOSEN = {
    "base_classes": 6,
    "num_phases": 2,
    "base_epochs": 4,
    "epochs": 3,
    "finetune_epochs": 2,
    "method": "lucir",
    "weight_transfer": True,
    "learning_rate": 0.05,
    "exemplars": "mnemonics",
    "exemplars_per_class": 4,
    "inner_steps": 10,
    "outer_steps": 6,
    "outer_batch_size": 200,
    "exemplars_per_step": 16,
    "validation_every": 3,
    "adjust_old_exemplars": True,
    "adjust_steps": 3,
    # Which that version did not have: nothing was bounded, and old classes stayed frozen.
    **{"max_shift": 255, "finetune_old_classes": False},
}
FLAGS = [
    f"--{'no' * (value is False)}{name}" if isinstance(value, bool) else f"--{name}={value}"
    for name, value in CHOSEN.items()
]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("earlier")
    with tarfile.open(HERE / "run_of_3e9a04a.tar.xz") as archive:
        archive.extractall(root, filter="data")
    return root


@pytest.fixture(scope="module")
def finished(unpacked) -> RunDirectory:
    return RunDirectory(unpacked / "finished")


@pytest.fixture
def copy(finished, tmp_path) -> RunDirectory:
    return RunDirectory(shutil.copytree(finished.root, tmp_path / "copy"))


def experiment(directory: pathlib.Path, **run) -> Experiment:
    """The same run as this version would begin it."""
    settings = Settings(RunSettings(run_dir=str(directory), **run)).changed(**CHOSEN)
    return Experiment(settings, load_digits(), tf.distribute.get_strategy())


def test_its_settings_stand_in_other_groups(finished):
    """Or else this is no test of reading them by name."""
    assert "adjust_steps" in read_json(finished.settings)["mnemonics"]
    assert "mnemonics" not in Settings().results_settings()


def test_it_scores_as_recorded(finished, capsys):
    assert evaluate(str(finished.root), "", -1, False) == 0
    assert capsys.readouterr().out.count("recorded") == 3 * 2


def test_going_on_finds_all_phases_done(copy, caplog):
    caplog.set_level(logging.INFO, "mnemonics_tf")
    recorded = read_json(copy.results)
    contents = experiment(copy.root).run()
    assert contents["phases"] == recorded["phases"]
    assert [f"phase {i} is done already" in caplog.text for i in range(3)] == [True] * 3


def test_going_on_with_another_setting_of_a_group_that_was_is_refused(copy):
    wanted = experiment(copy.root)
    wanted.settings = wanted.settings.changed(adjust_steps=4, codec="webp_lossless")
    told = "--codec was pixels, is webp_lossless; --adjust_steps was 3, is 4"
    with pytest.raises(UserError, match=told):
        wanted.run()


def test_its_checkpoint_is_refused(copy, unpacked):
    for index in (1, 2):
        shutil.rmtree(copy.phase(index))
    copy.results.unlink()
    copy.phase(1).mkdir()
    (checkpoint,) = (unpacked / "unfinished").iterdir()
    shutil.copy(checkpoint, copy.phase(1))
    with pytest.raises(UserError, match="written by an earlier version .*: finish the run with"):
        experiment(copy.root).run()
    assert (copy.phase(1) / checkpoint.name).exists()


def test_its_phase_0_is_taken(finished, tmp_path):
    taker = experiment(tmp_path / "taker", phase0_from=str(finished.root))
    state = taker.begin_phase(taker.protocol.phases[0])
    taker.run_stage("train", state)
    theirs = read_arrays(finished.base_model)
    # Of phase 0 all classes are new ones; later versions keep one kernel for old and new.
    theirs["classifier/kernel"] = theirs.pop("classifier/new_kernel")
    ours = read_arrays(taker.directory.base_model)
    assert ours.pop("seed") == 0  # noted since seeds may differ
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():  # the fingerprint too
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
    assert phase0_of(finished) == ("digits", "cosine", 0)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_its_exemplars_are_compared(finished, tmp_path):
    output = tmp_path / "figures.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tools.compare_exemplars", *FLAGS, "--nofinetune"),
            *(f"--phase0_from={finished.root}", f"--exemplars_from={finished.root}"),
            *(f"--run_dir={tmp_path / 'comparison'}", f"--output={output}"),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    heads = read_json(finished.record(0))["heads"]
    figures = json.loads(output.read_text())
    assert figures["theta_0"] == heads["classifier"]["accuracy"]
    assert figures["nme"] == heads["nme"]["accuracy"]
    kept = read_arrays(RunDirectory(tmp_path / "comparison").exemplars(0))
    np.testing.assert_array_equal(kept["images"], read_arrays(finished.exemplars(0))["images"])


def as_new(contents: dict, seed: int) -> dict:
    """The same results as this version would have written them."""
    settings = Settings().changed(**CHOSEN, seed=seed).results_settings()
    return contents | {"settings": settings, "protocol": contents["protocol"] | {"seed": seed}}


def test_reports_mix_it_with_newer_runs(finished, tmp_path):
    contents = read_json(finished.results)
    path = tmp_path / "new.json"
    write_json(path, as_new(contents, seed=1))
    runs = load_runs([str(finished.root), str(path)])
    (group,) = group_runs(runs)
    assert group.name == "lucir, mnemonics, weight transfer, adjusted"
    assert [run.seeds for run in group.runs] == [(0, -1), (1, -1)]
    assert warnings(runs, [group]) == []
    other = as_new(contents, seed=1)
    other["settings"]["adjustment"]["adjust_steps"] = 4
    write_json(path, other)
    names = [group.name for group in group_runs(load_runs([str(finished.root), str(path)]))]
    assert [name.rpartition(", ")[2] for name in names] == ["adjust_steps=3", "adjust_steps=4"]


def test_its_report(finished, tmp_path, capsys):
    output = tmp_path / "report.html"
    assert report_module.report([str(finished.root)], output, "") == 0
    assert "left out" not in capsys.readouterr().err
    page = output.read_text()
    assert "lucir, mnemonics, weight transfer, adjusted" in page
    assert "as first stored (the run keeps nothing earlier)" in page
