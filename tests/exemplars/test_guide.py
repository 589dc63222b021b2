"""The guide's codec and objective run as they are printed."""

import pathlib
import re
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_arrays, read_json
from mnemonics_tf.settings import RunSettings, Settings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_runs", "small_networks")]

GUIDE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "adding_a_codec_or_objective.md"


@pytest.fixture
def own_modules(monkeypatch):
    """The guide's two files, importable under the names that its commands use."""
    text = GUIDE.read_text("utf-8")
    names = re.findall(r"my_package\.(\w+):\w+", text)
    monkeypatch.setitem(sys.modules, "my_package", types.ModuleType("my_package"))
    for name, code in zip(names, re.findall(r"```python\n(.*?)```", text, re.DOTALL), strict=True):
        module = types.ModuleType(f"my_package.{name}")
        exec(code, vars(module))
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_the_guide_makes_a_codec_and_an_objective_that_run(own_modules, tmp_path):
    settings = Settings(RunSettings(str(tmp_path))).changed(
        base_classes=4,
        num_phases=2,
        base_epochs=1,
        epochs=1,
        finetune_epochs=1,
        exemplars="mnemonics",
        exemplars_per_class=3,
        outer_steps=8,
        codec="my_package.packed:Packed",
        objective="my_package.means:AtTheMean",
    )
    Experiment(settings, load_digits(), tf.distribute.get_strategy()).run()
    directory = RunDirectory(tmp_path)
    arrays = read_arrays(directory.exemplars(2))
    assert str(arrays["codec"]) == "my_package.packed:Packed"
    record = read_json(directory.record(2))
    assert record["memory"] == {
        "exemplars": 30,
        "bytes": len(arrays["codes"]),
        "exemplars_by_class": [3] * 10,
        "bytes_by_class": arrays["code_bytes"].tolist(),
    }
    losses = record["stages"]["exemplars"]["meta_loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
