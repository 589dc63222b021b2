"""A run that goes on looks after the exports of the phases that are done."""

import logging
import shutil

import pytest
import tensorflow as tf

from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluate import evaluate
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.export import export
from mnemonics_tf.settings import Settings
from tests.quick_runs import nothing_to_look_at

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_networks")]


def experiment(directory) -> Experiment:
    settings = Settings().changed(
        run_dir=str(directory),
        base_classes=9,
        num_phases=1,
        base_epochs=1,
        epochs=1,
        finetune_epochs=0,
        exemplars_per_class=2,
    )
    return Experiment(settings, load_digits(), tf.distribute.get_strategy())


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("exports") / "run[seed=0]"
    with nothing_to_look_at(exports=True):
        experiment(directory).run()
    return directory


def test_a_damaged_export_is_made_again_and_a_missing_one_is_told_of(run_dir, tmp_path, caplog):
    copy = tmp_path / "run[1]"
    shutil.copytree(run_dir, copy)
    exports = copy / "export" / "digits"
    (exports / "1" / "saved_model.pb").write_bytes(b"")
    (exports / "2").rename(tmp_path / "moved away")
    config = exports.with_name("models.config")
    written = config.read_text()
    config.unlink()
    with caplog.at_level(logging.WARNING):
        experiment(copy).run()
    assert "export" in caplog.text
    assert "changed since it was published: saved_model.pb" in caplog.text
    assert "digits/2 is missing: python -m mnemonics_tf.export --run_dir='" in caplog.text
    assert not (exports / "2").exists()
    assert evaluate(str(copy), "", 0, from_export=True) == 0
    assert config.read_text() == written


def test_missing_and_damaged_exports_are_made_again_on_request(run_dir, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    exports = copy / "export" / "digits"
    whole = (exports / "1" / "assets.extra" / "labels.txt").read_bytes()
    shutil.rmtree(exports / "1")
    (exports / "2" / "assets.extra" / "labels.txt").write_bytes(b"")
    assert export(str(copy), "", 0) == 0
    assert "digits/1 is missing: it is made again" in capsys.readouterr().out
    assert (exports / "1" / "assets.extra" / "labels.txt").read_bytes() == whole
    (copy / "phases" / "01" / "model.npz").unlink()
    assert export(str(copy), "", -1) == 1
    told = capsys.readouterr().out
    assert "digits/1 is whole" in told
    assert "labels.txt: it can't be made again: " in told
    assert "model.npz is missing" in told
    (exports / "2").rename(tmp_path / "moved away")
    assert evaluate(str(copy), "", 0, from_export=True) == 0
    exports.rename(exports.with_name("numbers"))
    assert export(str(copy), "", 0) == 0
    assert "/models/numbers" in exports.with_name("models.config").read_text()
    with pytest.raises(UserError, match="--phase=5 is not done in .*; done: 0, 1"):
        export(str(copy), "", 5)


def test_whole_exports_are_left_alone(run_dir, caplog, monkeypatch):
    run = experiment(run_dir)
    monkeypatch.setattr(run.exports, "write", lambda *arguments: pytest.fail("written"))
    with caplog.at_level(logging.WARNING):
        run.run()
    assert "export" not in caplog.text


def test_an_export_of_other_classes_is_not_scored(run_dir, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    shutil.rmtree(copy / "export" / "digits" / "1")
    (copy / "export" / "digits" / "2").rename(copy / "export" / "digits" / "1")
    with pytest.raises(UserError, match="is not of this phase"):
        evaluate(str(copy), "", 0, from_export=True)
