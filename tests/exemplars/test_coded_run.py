"""A run that stores codes: a lossless one changes no number, and it goes on from a checkpoint."""

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_arrays, read_json
from mnemonics_tf.settings import RunSettings, Settings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_runs", "small_networks")]


def run(path, last_phase: int = -1, **values) -> RunDirectory:
    chosen = {
        "base_classes": 6,
        "num_phases": 1,
        "base_epochs": 1,
        "epochs": 1,
        "finetune_epochs": 1,
        "exemplars": "mnemonics",
        "inner_steps": 2,
        "outer_steps": 2,
        "adjust_old_exemplars": True,
        "adjust_steps": 2,
    }
    run_settings = RunSettings(str(path), last_phase=last_phase)
    settings = Settings(run_settings).changed(**{**chosen, **values})
    Experiment(settings, load_digits(), tf.distribute.get_strategy()).run()
    return RunDirectory(path)


def test_a_lossless_codec_changes_bytes_alone(tmp_path):
    total = {"exemplars_total": 60}  # so that old classes give up some
    plain = run(tmp_path / "plain", **total)
    run(tmp_path / "coded", last_phase=0, codec="webp_lossless", **total)
    # From another process's exemplars:
    coded = run(tmp_path / "coded", codec="webp_lossless", **total)
    for phase in range(2):
        for kind in (RunDirectory.model, RunDirectory.predictions):
            ours, expected = (read_arrays(kind(each, phase)) for each in (coded, plain))
            for name, array in expected.items():
                np.testing.assert_array_equal(ours[name], array, err_msg=f"{phase} {name}")
    assert "images" not in read_arrays(coded.exemplars(1))


@pytest.mark.exhaustive
def test_a_run_keeps_within_its_bytes_and_goes_on(tmp_path):
    """Numbers differ by class; each phase's budget holds, to the byte of what is on the disk."""
    wanted = {
        **{"codec": "jpeg", "exemplar_bytes_total": 9000, "replay_per_class": 8},
        "adjust_steps": 1,
    }
    run(tmp_path / "run", last_phase=0, **wanted)
    directory = run(tmp_path / "run", **wanted)
    whole = run(tmp_path / "whole", **wanted)
    for phase, num_seen in enumerate((6, 10)):
        record = read_json(directory.record(phase))["memory"]
        arrays = read_arrays(directory.exemplars(phase))
        assert record["bytes"] == sum(record["bytes_by_class"]) == arrays["codes"].nbytes <= 9000
        assert max(record["bytes_by_class"]) <= 9000 // num_seen
        assert record["exemplars_by_class"] == np.bincount(arrays["labels"]).tolist()
        assert len(set(record["exemplars_by_class"])) > 1
        for name, array in read_arrays(whole.model(phase)).items():
            np.testing.assert_array_equal(read_arrays(directory.model(phase))[name], array)
    protocol = read_json(directory.results)["protocol"]
    assert (protocol["exemplar_bytes_total"], protocol["exemplars_per_class"]) == (9000, None)
