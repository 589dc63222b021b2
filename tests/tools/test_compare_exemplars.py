"""The comparison of exemplars, as it is called."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.settings import RunSettings, Settings
from tests.quick_runs import nothing_to_look_at

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PROTOCOL = {"base_classes": 8, "num_phases": 1, "base_epochs": 1, "exemplars_per_class": 2}


def compare(*arguments: str, status: int = 0) -> str:
    """Runs the command, checks its exit status and returns what it said."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tools.compare_exemplars"),
            *(f"--{name}={value}" for name, value in PROTOCOL.items()),
            *arguments,
        ],
        cwd=REPOSITORY,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr[-2000:]
    return done.stderr


def test_exemplars_of_an_earlier_run_are_measured_and_kept_through_the_next_phase(tmp_path):
    run, comparison, output = (tmp_path / name for name in ("run", "comparison", "figures.json"))
    settings = Settings(RunSettings(run_dir=str(run), last_phase=0)).changed(**PROTOCOL)
    with nothing_to_look_at():
        Experiment(settings, load_digits(), tf.distribute.get_strategy()).run()
    compare(
        *(f"--run_dir={comparison}", f"--output={output}", f"--phase0_from={run}"),
        *(f"--exemplars_from={run}", "--exemplars=random", "--exemplar_seed=1"),
        *("--nofinetune", "--next_phase=transfer", "--epochs=1", "--finetune_epochs=1"),
    )

    def images(directory: pathlib.Path) -> np.ndarray:
        return ExemplarMemory.load(RunDirectory(directory).exemplars(0)).images

    np.testing.assert_array_equal(images(comparison), images(run))
    figures = json.loads(output.read_text())
    assert figures["theta_0"] == json.loads((run / "results.json").read_text())["phases"][0][
        "heads"]["classifier"]["accuracy"]  # fmt: skip
    after = figures["next_phase_transfer"]["after_finetune"]["classifier"]
    assert min(after["old"], after["new"]) <= after["all"] <= max(after["old"], after["new"])
    assert "finetuned" not in figures
    assert figures["memory"]["exemplars_by_class"] == [2] * 8
    ceiling = figures["ceiling"]
    assert ceiling["memory"]["exemplars_by_class"] == [8] * 8
    assert ceiling["theta_0"] == figures["theta_0"]
    for one in (figures, ceiling):
        for moment in ("before_finetune", "after_finetune"):
            found = one["next_phase_transfer"][moment]
            assert found["best_constant"]["chosen_on"] == "test data"
            assert found["best_constant"]["accuracy"] >= found["classifier"]["all"]

    # The same exemplars under other names would be measured as those of the wrong classes.
    other_order = ("--class_order_seed=7", "--nofinetune", f"--output={tmp_path / 'other.json'}")
    complaint = compare(
        *(f"--run_dir={tmp_path / 'other'}", f"--exemplars_from={run}", *other_order),
        status=2,
    )
    assert f"error: {run} holds a run on other data" in complaint
    assert "--exemplars_from" in complaint
    assert "class order" in complaint
