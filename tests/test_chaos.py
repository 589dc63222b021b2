"""The short form of tools/chaos.py: a run that is killed beside one that is left alone."""

import random

import pytest
import tensorflow as tf
from absl import flags

from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.experiment import STAGES, Experiment
from mnemonics_tf.flags import settings_from_flags
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import write_arrays
from tests.small_network import NAME
from tools.chaos import kill_again_and_again, plan_kills, table
from tools.chaos_run import DEMO, EVALUATE, Moment, Runner, differences, moments, reached

SHORT = DEMO | {
    "backbone": NAME,
    "base_classes": 8,
    "base_epochs": 1,
    "epochs": 1,
    "finetune_epochs": 1,
    "exemplars_per_class": 3,
    "exemplars": "herding",  # exemplars that learn are for the long form
    "adjust_old_exemplars": False,
}


@pytest.fixture
def left_alone(parse, tmp_path) -> RunDirectory:
    """A run in this process that nothing happens to."""
    arguments = [f"--{name}={value}" for name, value in SHORT.items()]
    settings = settings_from_flags(parse(f"--run_dir={tmp_path / 'alone'}", *arguments))
    flags.FLAGS.unparse_flags()
    experiment = Experiment(settings, load_digits(), tf.distribute.get_strategy())
    experiment.run()
    return experiment.directory


@pytest.mark.slow
def test_a_killed_run_ends_like_one_left_alone(left_alone, tmp_path):
    runner = Runner(SHORT, tmp_path / "killed", tmp_path / "killed.txt")
    (kill,) = kill_again_and_again(runner, SHORT, 1, random.Random(0))
    assert kill.expected
    assert kill.moment == "phase 1 finetune 1"  # of which there is a checkpoint
    status, printed = runner.finish()
    assert status == 0, printed[-2000:]
    assert "goes on from its checkpoint" in printed
    assert differences(left_alone, runner.directory) == []


@pytest.mark.parametrize("seed", range(5))
def test_kills_spread_over_all_stages(seed):
    plan = plan_kills(DEMO, 20, random.Random(seed))
    assert plan == sorted(set(plan))
    assert len(plan) == 20
    found = {(moment.phase, STAGES[moment.stage]) for moment in plan if moment.stage < EVALUATE}
    assert found >= {(0, "train"), (0, "exemplars")}
    assert found >= {(1, name) for name in ("train", "exemplars", "adjust", "finetune")}
    assert {moment.phase for moment in plan if moment.stage == EVALUATE} == {0, 1}


def test_the_table_says_what_was_not_survived():
    good = {"name": "SIGKILL", "moment": "phase 0 train 1", "outcome": "died", "expected": True}
    bad = {"name": "full disk", "moment": "phase 1 train 1", "outcome": "a | b", "expected": False}
    untried = {"name": "read-only", "moment": "-", "outcome": "not tried", "expected": None}
    report = {
        "flags": ["--epochs=1"],
        "seed": 3,
        "survived": 1,
        "differences": {"killed run": [], "other run": ["summary", "export 1: logits"]},
        "kills": [good],
        "faults": [bad, untried],
        "packages": {"tensorflow": "2.21.0"},
    }
    lines = table(report).splitlines()
    assert "| SIGKILL | phase 0 train 1 | died | yes |" in lines
    assert "| full disk | phase 1 train 1 | a \\| b | **no** |" in lines
    assert "| read-only | - | not tried | - |" in lines
    assert "- killed run: the same, bit for bit" in lines
    assert "- other run: summary; export 1: logits" in lines
    assert "1 of 2 faults went as they should" in "\n".join(lines)


def test_moments_are_read_from_a_run_directory(tmp_path):
    directory = RunDirectory(tmp_path)
    assert reached(directory) == min(moments(DEMO))
    write_arrays(
        directory.phase(0) / "checkpoint-000004.npz", {"stage": "exemplars", "position": 3}
    )
    assert reached(directory) == Moment(0, 1, 3)
    assert str(reached(directory)) == "phase 0 exemplars 3"
    trained = {"stage": "train", "position": 24, "epoch:done": 2}
    write_arrays(directory.phase(0) / "checkpoint-000003.npz", trained)
    (directory.phase(0) / "checkpoint-000005.npz").write_text("not whole")
    assert reached(directory) == Moment(0, 1, 3)
    (directory.phase(0) / "checkpoint-000004.npz").unlink()
    assert reached(directory) == Moment(0, 0, 2)
    directory.record(0).write_text("{}")
    assert reached(directory) == Moment(1, 0, 0)
