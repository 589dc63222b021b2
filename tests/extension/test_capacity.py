"""A run that outgrows its classifier's capacity goes on with a wider one."""

import json

import numpy as np
import pytest

from mnemonics_tf.evaluate import evaluate
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_arrays, read_json
from tests.extension.tiny_runs import extension, learn, save, settings_for, train

pytestmark = [
    *(pytest.mark.slow, pytest.mark.exhaustive),
    pytest.mark.usefixtures("quick_runs"),
]


def test_beyond_64_classes(tmp_path):
    """As near as rounding lets it be to a run that had room for all from the start."""
    base = save(tmp_path / "base.npz", range(63))
    values = {"base_classes": 63, "num_phases": 0, "exemplars_per_class": 2, "batch_size": 500}
    train(settings_for(tmp_path / "run", base, **values))
    more = save(tmp_path / "more.npz", [63, 64, 65])
    assert extension(tmp_path / "run", more).experiment.workshop.kept == {}
    learn(tmp_path / "run", more)
    order = read_json(tmp_path / "run" / "classes.json")["phases"][0]
    phases = json.dumps([order, ["63", "64", "65"]])
    whole = save(tmp_path / "whole.npz", range(66))
    train(settings_for(tmp_path / "whole", whole, **values, phase_classes=phases))
    models = [read_arrays(RunDirectory(tmp_path / name).model(1)) for name in ("run", "whole")]
    assert models[0]["classifier/kernel"].shape[1] == 66
    for name, array in models[1].items():
        np.testing.assert_allclose(models[0][name], array, atol=1e-5, err_msg=name)
    assert evaluate(str(tmp_path / "run"), base, -1, False) == 0
