"""Runs that go on: finished, killed, damaged, on other data, or scored again."""

import dataclasses
import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from mnemonics_tf import experiment as experiment_module
from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluate import evaluate
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.phases.asked_for import make_protocol
from mnemonics_tf.run.checkpoints import PhaseCheckpoints, Snapshot
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_arrays, read_json, write_json
from mnemonics_tf.run.interruption import RunInterruptedError
from mnemonics_tf.run.results import data_id, without_times
from mnemonics_tf.settings import (
    Settings,
)
from tests.digit_runs import (
    SETTINGS,
    Run,
    changed,
    files_of,
    make,
    other_pixels,
    run_watched,
)


def test_the_same_command_again_does_nothing(finished):
    before = {
        path: contents
        for path, contents in files_of(finished.directory.root).items()
        if "tensorboard" not in path
    }
    again = run_watched(finished.settings)
    assert again.images == []
    assert again.contents == finished.contents
    after = files_of(finished.directory.root)
    assert {path: after[path] for path in before} == before


@pytest.fixture
def copy(finished, tmp_path) -> Run:
    """The finished run in another directory, to be damaged."""
    return finished.copied_to(tmp_path / "copy")


def test_damaged_results_are_made_again_from_the_records(copy, caplog):
    text = copy.directory.results.read_text()
    copy.directory.results.write_text(text[: len(text) // 2])
    assert make(copy.settings).run() == copy.contents
    assert copy.directory.results.read_text() == text
    assert "made again from the records" in caplog.text


def test_a_changed_digit_does_not_reach_the_results(copy):
    record = read_json(copy.directory.record(1))
    record["heads"]["nme"]["accuracy"] += 0.01
    write_json(copy.directory.record(1), record)
    with pytest.raises(UserError, match=r"01/phase\.json and .*predictions\.npz contradict"):
        make(copy.settings).run()


@pytest.mark.parametrize("part", ["training", "test"])
def test_a_run_does_not_go_on_with_other_pixels(copy, part):
    other_pixels(copy.directory, part)
    with pytest.raises(UserError, match=f"on other data: the {part} images are others"):
        make(copy.settings).run()


def test_a_run_of_an_earlier_version_goes_on_and_says_so(copy, caplog):
    facts = read_json(copy.directory.classes)
    del facts["data_digests"]
    write_json(copy.directory.classes, facts)
    assert make(copy.settings).run()["data_digests"] is None
    assert caplog.text.count("notes no digest of the images") == 1


def test_a_run_of_an_earlier_version_notes_digests_once_it_has_learned(copy, tmp_path, monkeypatch):
    facts = read_json(copy.directory.classes)
    digests = facts.pop("data_digests")
    write_json(copy.directory.classes, facts)
    done = tmp_path / "done"
    copy.directory.phase(2).rename(done)
    monkeypatch.setattr(
        Experiment, "run_phase", lambda run, phase: done.rename(run.directory.phase(phase.index))
    )
    assert make(copy.settings).run()["data_digests"] is None  # nobody knows of phase 0
    assert read_json(copy.directory.classes)["data_digests"] == digests


def test_scoring_compares_the_data_first(copy, caplog):
    other_pixels(copy.directory, "test")
    assert evaluate(str(copy.directory.root), "", 0, False) == 0
    assert "the test images are others" in caplog.text
    facts = read_json(copy.directory.classes)
    facts["phases"][0][0] = "zero"
    write_json(copy.directory.classes, facts)
    with pytest.raises(UserError, match="on other data: .*zero.*--data_dir"):
        evaluate(str(copy.directory.root), "", 0, False)


def test_the_table_of_hyperparameters_tells_data_apart(finished):
    shown = set()
    for path in finished.directory.tensorboard.glob("events.out.tfevents.*"):
        for event in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            for value in event_pb2.Event.FromString(event).summary.value:
                if value.metadata.plugin_data.plugin_name == "hparams":
                    told = plugin_data_pb2.HParamsPluginData.FromString(
                        value.metadata.plugin_data.content
                    )
                    shown |= {
                        told.session_start_info.hparams[name].string_value
                        for name in told.session_start_info.hparams
                        if name == "data/id"
                    }
    assert shown == {data_id(finished.contents)}


class Killed(BaseException):
    """Stands for a signal: no handler of ordinary errors sees it."""


def run_and_kill(settings: Settings, phase: int, stage: str, position: int) -> None:
    """Runs until a snapshot of that moment, in steps of a stage, or a later one is on disk."""
    save = PhaseCheckpoints.save

    def save_and_die(checkpoints, snapshot):
        save(checkpoints, snapshot)
        here = (checkpoints.directory.name, snapshot.stage)
        if here == (f"{phase:02d}", stage) and snapshot.position >= position:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PhaseCheckpoints, "save", save_and_die)
        with pytest.raises(Killed):
            make(settings).run()


def run_and_kill_before_the_record(settings: Settings, phase: int) -> None:
    """Runs until all of a phase is written but the file that closes it."""
    write_json = experiment_module.write_json

    def write_or_die(path, value):
        if path == RunDirectory(settings.run.run_dir).record(phase):
            raise Killed
        write_json(path, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment_module, "write_json", write_or_die)
        with pytest.raises(Killed):
            make(settings).run()


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Run:
    """The same run, stopped once and killed at five moments, and started again each time."""
    directory = tmp_path_factory.mktemp("killed") / "run"
    settings = changed(SETTINGS, run={"run_dir": str(directory)})
    stopped = make(settings)
    stopped.stop.requested = True
    with pytest.raises(RunInterruptedError):
        stopped.run()
    assert stopped.checkpoints(stopped.protocol.phases[0]).latest().position == 1
    run_and_kill(settings, 0, "train", 2)
    run_and_kill(settings, 0, "adjust", 0)
    images = load_digits().training_counts()[make_protocol(SETTINGS, 10).order[8]] + 8 * 10
    steps = -(-images // SETTINGS.training.batch_size)
    run_and_kill(settings, 1, "train", 2 * steps)  # all epochs done, the stage not yet closed
    run_and_kill(settings, 2, "finetune", 1)
    run_and_kill_before_the_record(settings, 2)
    return run_watched(settings)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_results(finished, killed):
    ours, expected = without_times(killed.contents), without_times(finished.contents)
    for mine, other in zip(ours["phases"], expected["phases"], strict=True):
        for name in mine.keys() | other.keys():
            assert mine.get(name) == other.get(name), (mine["phase"], name)
    assert ours == expected


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_files(finished, killed):
    for phase in range(3):
        for kind in (RunDirectory.exemplars, RunDirectory.predictions, RunDirectory.model):
            ours = read_arrays(kind(killed.directory, phase))
            expected = read_arrays(kind(finished.directory, phase))
            assert ours.keys() == expected.keys()
            for name, array in expected.items():
                np.testing.assert_array_equal(ours[name], array, err_msg=name)
        assert not list(killed.directory.phase(phase).glob("checkpoint*"))


@pytest.mark.parametrize("from_export", [False, True])
def test_every_phase_scores_the_same_again(finished, capsys, from_export):
    assert evaluate(str(finished.directory.root), "", -1, from_export) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * 2
    for record in finished.contents["phases"]:
        for head, figures in record["heads"].items():
            expected = f"phase {record['phase']} {head:>10}: {figures['accuracy']:.4%} now"
            assert any(line.startswith(expected) for line in lines)


def test_a_score_that_differs_from_its_record_is_reported(finished, tmp_path, capsys):
    copy = shutil.copytree(finished.directory.root, tmp_path / "copy")
    record = read_json(RunDirectory(copy).record(1))
    record["heads"]["nme"]["accuracy"] += 0.01
    write_json(RunDirectory(copy).record(1), record)
    assert evaluate(str(copy), "", 1, False) == 1
    assert "phase 1" in capsys.readouterr().out


def test_scoring_what_is_not_there(finished, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        evaluate(str(tmp_path), "", -1, False)
    with pytest.raises(UserError, match="--phase=3 is not done .* done: 0, 1, 2"):
        evaluate(str(finished.directory.root), "", 3, False)


def test_a_run_with_other_settings_is_refused_and_nothing_written(finished):
    before = files_of(finished.directory.root)
    other = changed(finished.settings, training={"epochs": 3}, exemplar={"exemplars": "random"})
    with pytest.raises(UserError, match="--epochs was 2, is 3; --exemplars was herding, is random"):
        make(other).run()
    assert files_of(finished.directory.root) == before


@pytest.mark.slow
def test_a_checkpoint_of_another_run_is_refused(finished, tmp_path):
    """The same model at the same moment, but learned with another seed."""
    runs = [
        changed(SETTINGS, run={"run_dir": str(tmp_path / str(seed))}, protocol={"seed": seed})
        for seed in (0, 1)
    ]
    for settings in runs:
        stopped = make(settings)
        stopped.stop.requested = True
        with pytest.raises(RunInterruptedError):
            stopped.run()
    ours, others = (
        next(RunDirectory(settings.run.run_dir).phase(0).glob("checkpoint-*.npz"))
        for settings in runs
    )
    shutil.copy(others, ours)
    with pytest.raises(UserError, match="belongs to another run or phase"):
        make(runs[0]).run()


def hostile_snapshots(whole: Snapshot) -> dict[str, Snapshot]:
    """Returns snapshots of the right owner that no run wrote."""
    model = dict(whole.groups["model"])
    name = next(iter(model))
    groups = {
        "model of another shape": {"model": model | {name: np.zeros((1, 2))}},
        "model of objects' names": {"model": model | {name: np.array("text")}},
        "model that lacks a variable": {"model": {k: v for k, v in model.items() if k != name}},
        "no memory": {"memory": {}},
        "metrics that are no JSON": {"metrics": {"json": np.array("{")}},
        "optimiser of another shape": {"optimizer": {"0000": np.zeros((7, 7))}},
    }
    return {
        case: dataclasses.replace(whole, groups=whole.groups | changes)
        for case, changes in groups.items()
    }


@pytest.mark.slow
def test_hostile_checkpoints_are_a_clear_line(tmp_path):
    settings = changed(SETTINGS, run={"run_dir": str(tmp_path / "run")})
    stopped = make(settings)
    stopped.stop.requested = True
    with pytest.raises(RunInterruptedError):
        stopped.run()
    checkpoints = stopped.checkpoints(stopped.protocol.phases[0])
    whole = checkpoints.latest()
    for snapshot in hostile_snapshots(whole).values():
        checkpoints.save(snapshot)
        with pytest.raises(UserError, match="does not fit this run|does not hold what"):
            make(settings).run()
