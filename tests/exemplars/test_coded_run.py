"""A run that stores codes: a lossless one changes no number, and it goes on from a checkpoint."""

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.phases.exports import PhaseExports
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_arrays
from mnemonics_tf.settings import RunSettings, Settings

pytestmark = pytest.mark.slow


def run(path, last_phase: int = -1, **values) -> RunDirectory:
    settings = Settings(RunSettings(str(path), last_phase=last_phase)).changed(
        base_classes=6,
        num_phases=2,
        base_epochs=1,
        epochs=1,
        finetune_epochs=1,
        exemplars="mnemonics",
        exemplars_total=60,  # so that old classes give up some
        inner_steps=2,
        outer_steps=2,
        adjust_old_exemplars=True,
        adjust_steps=2,
        **values,
    )
    Experiment(settings, load_digits(), tf.distribute.get_strategy()).run()
    return RunDirectory(path)


def test_a_lossless_codec_changes_bytes_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(PhaseExports, "write", lambda *arguments: None)
    plain = run(tmp_path / "plain")
    run(tmp_path / "coded", last_phase=0, codec="webp_lossless")
    coded = run(tmp_path / "coded", codec="webp_lossless")  # from another process's exemplars
    for phase in range(3):
        for kind in (RunDirectory.model, RunDirectory.predictions):
            ours, expected = (read_arrays(kind(each, phase)) for each in (coded, plain))
            for name, array in expected.items():
                np.testing.assert_array_equal(ours[name], array, err_msg=f"{phase} {name}")
    assert "images" not in read_arrays(coded.exemplars(2))
