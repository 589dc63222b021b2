"""The command that reproduces a table, with a small grid to its end."""

import json
import subprocess
import sys

import pytest

from tests.tools.reproduce_grid import ROOT

pytestmark = pytest.mark.slow


def reproduce(tmp_path, *arguments):
    return subprocess.run(
        [
            *(sys.executable, "-m", "tools.reproduce", "--dataset=digits", "--schedule=smoke"),
            *("--num_phases=1", "--methods=joint", f"--output={tmp_path / 'runs'}", *arguments),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_grid_is_trained_once(tmp_path):
    published, markdown = tmp_path / "published", tmp_path / "table.md"
    arguments = (f"--published={published}", f"--markdown={markdown}")
    first = reproduce(tmp_path, *arguments)
    assert first.returncode == 0, first.stderr
    assert "1 of 1 runs done, 0 left" in first.stdout
    (file,) = published.iterdir()
    assert "confusion_matrix" not in file.read_text()
    table = markdown.read_text()
    assert "| joint | 1 | 0 |" in table

    # Elsewhere, with the published results alone: nothing is left.
    again = reproduce(tmp_path / "elsewhere", *arguments)
    assert again.returncode == 0, again.stderr
    assert "started" not in again.stdout
    assert not (tmp_path / "elsewhere").exists()
    assert markdown.read_text() == table


#: arguments, and what is said of them
BAD_CHOICES = [
    (
        ["--train_flags=--bogus=1"],
        "'--bogus=1' is no setting of a run with its value: expected some like",
    ),
    (["--train_flags=depth=8"], "'depth=8' is no setting of a run"),
    (["--train_flags=--epochs=abc"], "'--epochs=abc' is no setting of a run with its value"),
    (
        ["--train_flags=--codec=jpeg", "--table=bytes", "--rows=lwf frozen herding"],
        "set --codec: leave --codec=jpeg out",
    ),
    (["--seeds="], "--seeds=: expected integers"),
    (["--train_flags=--depth='8"], "No closing quotation"),
    (["--train_flags=--depth=8 --seed=3"], "set --seed: leave --seed=3 out"),
    (["--train_flags=--noweight_transfer"], "leave --noweight_transfer out"),
    (["--train_flags=--exemplars_total=99"], "leave --exemplars_total=99 out, or pass --noceiling"),
    (["--train_flags=--replay_per_class=9"], "leave --replay_per_class=9 out, or"),
    (["--dataset=digits", "--table=bytes"], "its bytes are those of CIFAR-100's images"),
    (["--rows=lwf ours"], "table 1 has no such row"),
]

#: tries each in one process of its own: the tools' flags and those of training have equal names
REFUSALS = """
import json, sys
from absl import flags
from absl.testing import flagsaver
from mnemonics_tf.errors import UserError
from tools import reproduce

reproduce.train_all = None
for passed in json.loads(sys.argv[1]):
    with flagsaver.flagsaver():
        flags.FLAGS(["reproduce", "--schedule=smoke", *passed])
        try:
            reproduce._reproduce()
        except UserError as error:
            print(str(error).replace("\\n", " "))
"""


def test_bad_choices_are_refused_before_anything_trains(tmp_path):
    cases = [[f"--output={tmp_path / 'runs'}", *passed] for passed, _ in BAD_CHOICES]
    tried = subprocess.run(
        [sys.executable, "-c", REFUSALS, json.dumps(cases)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for line, (_, told) in zip(tried.stdout.splitlines(), BAD_CHOICES, strict=True):
        assert told in line
    assert not (tmp_path / "runs").exists()


def test_what_is_done_is_shown_without_training(tmp_path):
    shown = reproduce(tmp_path, "--notrain", "--train_flags=--depth=8")
    assert shown.returncode == 0, shown.stderr
    assert "0 of 1 runs done, 1 left" in shown.stdout
    assert "joint" in shown.stdout
    assert "started" not in shown.stdout


def test_a_dry_run_starts_nothing(tmp_path):
    shown = reproduce(tmp_path, "--dry_run")
    assert shown.returncode == 0, shown.stderr
    assert "0 of 1 runs done, 1 left" in shown.stdout
    assert "-m mnemonics_tf.train --dataset=digits --base_classes=5" in shown.stdout
    assert not (tmp_path / "runs").exists()
