"""Whole runs on the handwritten digits, small enough for a processor."""

import dataclasses
import gc
import pathlib
import shutil
import weakref
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from mnemonics_tf import experiment as experiment_module
from mnemonics_tf.data.access import PhaseData
from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluate import evaluate
from mnemonics_tf.experiment import STAGES, Experiment
from mnemonics_tf.phases import phase0
from mnemonics_tf.phases.checks import make_protocol
from mnemonics_tf.phases.exports import PhaseExports
from mnemonics_tf.run.checkpoints import PhaseCheckpoints, Snapshot
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_arrays, read_json, write_arrays, write_json
from mnemonics_tf.run.interruption import RunInterruptedError
from mnemonics_tf.run.results import data_id, without_times
from mnemonics_tf.settings import (
    ExemplarSettings,
    ModelSettings,
    ProtocolSettings,
    RunSettings,
    Settings,
    TrainingSettings,
)

SETTINGS = Settings(
    RunSettings(checkpoint_minutes=0.0),
    ProtocolSettings(base_classes=8, num_phases=2),
    ModelSettings(weight_transfer=True),
    TrainingSettings(base_epochs=4, epochs=2, finetune_epochs=2),
    ExemplarSettings(exemplars_per_class=10),
)


def changed(settings: Settings, **groups: dict[str, Any]) -> Settings:
    """Returns settings with some values of some groups changed."""
    return dataclasses.replace(
        settings,
        **{
            group: dataclasses.replace(getattr(settings, group), **values)
            for group, values in groups.items()
        },
    )


def make(settings: Settings) -> Experiment:
    return Experiment(settings, load_digits(), tf.distribute.get_strategy())


def stages() -> list[str]:
    return list(STAGES)


@dataclasses.dataclass
class Run:
    """A run and what was seen of it from outside.

    Attributes:
        settings: its own.
        contents: what it returned.
        directory: its files.
        images: for every phase, how many training images it was given.
        alive: for every phase, how many earlier phases' training sets were alive when it began.
    """

    settings: Settings
    contents: dict[str, Any]
    directory: RunDirectory
    images: list[int]
    alive: list[int]


def run_watched(settings: Settings) -> Run:
    sets: list[weakref.ref] = []
    images, alive = [], []
    training_set = PhaseData.training_set

    def watched(data, phase):
        gc.collect()
        alive.append(sum(reference() is not None for reference in sets))
        found = training_set(data, phase)
        sets.append(weakref.ref(found))
        images.append(len(found))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PhaseData, "training_set", watched)
        contents = make(settings).run()
    return Run(settings, contents, RunDirectory(settings.run.run_dir), images, alive)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Run:
    directory = tmp_path_factory.mktemp("finished") / "run"
    return run_watched(changed(SETTINGS, run={"run_dir": str(directory)}))


@pytest.fixture(scope="module")
def joint(finished, tmp_path_factory) -> Run:
    """The upper bound with a total budget, on the other run's phase 0."""
    directory = tmp_path_factory.mktemp("joint") / "run"
    return run_watched(
        changed(
            SETTINGS,
            run={"run_dir": str(directory), "phase0_from": str(finished.directory.root)},
            protocol={"num_phases": 1},
            model={"weight_transfer": False},
            training={"method": "joint"},
            exemplar={"exemplars_total": 95},
        )
    )


def files_of(root: pathlib.Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def variables_of(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {path: array for path, array in arrays.items() if path.split("/")[-1] == name}


# What a run leaves behind


def test_files_of_a_finished_run(finished):
    directory = finished.directory
    for path in (directory.flags, directory.settings, directory.results, directory.base_model):
        assert path.stat().st_size > 0
    for phase in range(3):
        names = {path.name for path in directory.phase(phase).iterdir()} - {"base_model.npz"}
        assert names == {"phase.json", "model.npz", "exemplars.npz", "predictions.npz"}
        assert (directory.export / "digits" / str(phase + 1) / "saved_model.pb").exists()
    assert list(directory.tensorboard.glob("events.out.tfevents.*"))
    assert read_json(directory.results) == finished.contents
    assert read_json(directory.settings) == finished.settings.results_settings()


def test_results_agree_with_the_predictions(finished):
    source, protocol = load_digits(), make_protocol(finished.settings, 10)
    accuracies = {"classifier": [], "nme": []}
    for phase, record in zip(protocol.phases, finished.contents["phases"], strict=True):
        arrays = read_arrays(finished.directory.predictions(phase.index))
        counts = [len(source.test_set([original])) for original in protocol.order[: phase.num_seen]]
        assert np.bincount(arrays["labels"]).tolist() == counts
        assert record["num_seen"] == phase.num_seen
        assert record["new_classes"] == list(protocol.order[phase.num_old : phase.num_seen])
        for head, found in accuracies.items():
            right = arrays[head] == arrays["labels"]
            found.append(right.mean())
            first = right[arrays["labels"] < 8].mean()
            assert record["heads"][head]["accuracy"] == pytest.approx(right.mean())
            assert record["heads"][head]["group_accuracies"][0] == pytest.approx(first)
            matrix = np.array(record["heads"][head]["confusion_matrix"])
            assert matrix.sum(axis=1).tolist() == counts
            assert np.trace(matrix) == right.sum()
    for head, found in accuracies.items():
        summary = finished.contents["summary"][head]
        assert summary["average_accuracy"] == pytest.approx(np.mean(found))
        matrix = summary["accuracy_matrix"]
        assert summary["forgetting"] == pytest.approx(matrix[0][0] - matrix[2][0])


def test_a_run_learns(finished):
    summary = finished.contents["summary"]
    assert min(summary["nme"]["phase_accuracies"]) > 0.7
    assert summary["classifier"]["phase_accuracies"][-1] > 0.5
    last = finished.contents["phases"][-1]["heads"]["classifier"]["group_accuracies"]
    assert min(last) > 0.2  # no group is forgotten


def test_exemplars_are_training_images_of_their_class(finished):
    source, protocol = load_digits(), make_protocol(finished.settings, 10)
    memories = [read_arrays(finished.directory.exemplars(i)) for i in range(3)]
    for phase, memory in zip(protocol.phases, memories, strict=True):
        assert memory["labels"].tolist() == np.repeat(phase.seen_classes, 10).tolist()
        record = finished.contents["phases"][phase.index]["memory"]
        assert record == {
            "exemplars": 10 * phase.num_seen,
            "bytes": 640 * phase.num_seen,
            "exemplars_by_class": [10] * phase.num_seen,
            "bytes_by_class": [640] * phase.num_seen,
        }
    np.testing.assert_array_equal(memories[2]["images"][:80], memories[0]["images"])
    for label, original in enumerate(protocol.order):
        training = {image.tobytes() for image in source.training_set([original]).images}
        kept = [image.tobytes() for image in memories[2]["images"][label * 10 : label * 10 + 10]]
        assert len(set(kept)) == 10
        assert training.issuperset(kept)


def test_weight_transfer_freezes_the_kernels_of_phase_0(finished):
    models = [read_arrays(finished.directory.model(i)) for i in range(3)]
    for name, moves in (("kernel", False), ("transfer_scale", True), ("gamma", True)):
        variables = [variables_of(model, name) for model in models]
        for found in variables:
            found.pop("classifier/kernel", None)
        assert len(variables[0]) == 9  # stem, six in blocks, two shortcuts
        for path, value in variables[0].items():
            assert np.array_equal(value, variables[1][path]) != moves
            assert np.array_equal(variables[1][path], variables[2][path]) != moves


def test_training_data_of_a_phase_is_out_of_reach_in_the_next(finished):
    counts = load_digits().training_counts()[list(make_protocol(SETTINGS, 10).order)]
    assert finished.images == [counts[:8].sum(), counts[8], counts[9]]
    assert finished.alive == [0, 0, 0]


# Going on


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
    root = shutil.copytree(finished.directory.root, tmp_path / "copy")
    settings = changed(finished.settings, run={"run_dir": str(root)})
    return dataclasses.replace(finished, settings=settings, directory=RunDirectory(root))


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


def other_pixels(directory: RunDirectory, part: str) -> None:
    """Makes a run one on images of the same names and numbers."""
    facts = read_json(directory.classes)
    facts["data_digests"][part] = "pixels-0"
    write_json(directory.classes, facts)


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


def test_phase_0_is_not_taken_from_other_pixels(copy, tmp_path, monkeypatch):
    """That is told, and not that their mean is another, as that of other pixels is."""
    other_pixels(copy.directory, "training")
    monkeypatch.setattr(
        phase0, "refuse_other_preprocessing", lambda *_: pytest.fail("the mean was told first")
    )
    run = {"run_dir": str(tmp_path / "taker"), "phase0_from": str(copy.directory.root)}
    with pytest.raises(UserError, match="training images are others .*--phase0_from"):
        make(changed(SETTINGS, run=run)).run()


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


# Upper bound, total budget, shared phase 0


@pytest.mark.slow
def test_the_upper_bound_keeps_all_data_and_skips_the_finetune(joint):
    counts = load_digits().training_counts()[list(make_protocol(SETTINGS, 10).order)]
    assert joint.images == [counts[:8].sum(), counts.sum()]
    assert set(joint.contents["phases"][1]["stages"]) & {"train", "finetune"} == {"train"}
    assert joint.contents["summary"]["classifier"]["phase_accuracies"][-1] > 0.6


@pytest.mark.slow
def test_a_total_budget_takes_from_old_classes_what_new_ones_get(joint):
    first, second = (read_arrays(joint.directory.exemplars(i)) for i in range(2))
    assert first["labels"].tolist() == np.repeat(range(8), 95 // 8).tolist()
    assert second["labels"].tolist() == np.repeat(range(10), 95 // 10).tolist()
    for label in range(8):
        kept = second["images"][second["labels"] == label]
        np.testing.assert_array_equal(kept, first["images"][first["labels"] == label][:9])


@pytest.mark.slow
def test_a_shared_phase_0_is_the_same_model(finished, joint):
    ours, theirs = (read_arrays(run.directory.model(0)) for run in (joint, finished))
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array)
    ours, theirs = (read_arrays(run.directory.predictions(0)) for run in (joint, finished))
    np.testing.assert_array_equal(ours["classifier"], theirs["classifier"])
    assert "train" not in joint.contents["phases"][0]["stages"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"protocol": {"class_order_seed": 1}}, "class_order_seed was 1993 there and is 1 here"),
        ({"training": {"base_epochs": 5}}, "base_epochs was 4 there and is 5 here"),
        ({"training": {"weight_decay": 1e-4}}, "weight_decay was 0.0005 there and is 0.0001 here"),
        ({"training": {"method": "lucir"}}, "=lwf has a linear .* and --method=lucir has a cosine classifier"),
    ],
)
def test_phase_0_of_other_settings_is_refused(finished, tmp_path, changes, told):
    run = {"run_dir": str(tmp_path / "run"), "phase0_from": str(finished.directory.root)}
    settings = changed(SETTINGS, run=run, **changes)
    message = f"--phase0_from=.* other settings, data or class order .--.*{told}.; leave the flag"
    with pytest.raises(UserError, match=message):
        make(settings).run()
    assert not RunDirectory(tmp_path / "run").base_model.exists()


@pytest.mark.slow
def test_phase_0_of_another_seed_or_precision_is_taken(finished, tmp_path, monkeypatch):
    """Also by a run that takes it from one that took it."""
    monkeypatch.setattr(PhaseExports, "write", lambda *arguments: None)
    donor, taken = finished.directory, []
    for seed, precision in ((1, "off"), (2, "bfloat16")):
        run = {
            "run_dir": str(tmp_path / f"{seed}"),
            "phase0_from": str(donor.root),
            "last_phase": 0,
        }
        changes = {"protocol": {"seed": seed}, "training": {"mixed_precision": precision}}
        taker = make(changed(SETTINGS, run=run, **changes))
        contents = taker.run()
        assert (contents["phase0_seed"], contents["protocol"]["seed"]) == (0, seed)
        assert contents["phase0_mixed_precision"] == "off"
        donor = taker.directory
        taken.append(read_arrays(donor.base_model))
    assert finished.contents["phase0_seed"] == 0
    first = read_arrays(finished.directory.base_model)
    for arrays in taken:
        for name, array in first.items():
            np.testing.assert_array_equal(arrays[name], array)


def test_phase_0_of_no_run(tmp_path):
    run = {"run_dir": str(tmp_path / "run"), "phase0_from": str(tmp_path / "none")}
    with pytest.raises(UserError, match="base_model.npz is missing"):
        make(changed(SETTINGS, run=run)).run()


# What does not fit is said before any work


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": {"num_phases": 3}}, "--num_phases=3 .* valid values: 1, 2$"),
        ({"protocol": {"base_classes": 11}}, "--base_classes=11, but the data has 10 classes"),
        ({"protocol": {"class_order": (1, 0)}}, "--class_order names 2 classes, but digits has 10"),
        ({"protocol": {"class_order": (0,) * 10}}, "no permutation"),
        ({"exemplar": {"exemplars_total": 9}}, "--exemplars_total=9 .* pass at least"),
        ({"model": {"depth": 10}}, "--depth=10 is no depth"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(*value.values()),
)
def test_settings_that_do_not_fit_the_data(tmp_path, changes, message):
    settings = changed(SETTINGS, run={"run_dir": str(tmp_path / "run")}, **changes)
    with pytest.raises(UserError, match=message):
        make(settings)
    assert not (tmp_path / "run").exists()


def test_an_explicit_class_order_is_taken():
    order = (9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
    settings = changed(SETTINGS, protocol={"class_order": order})
    assert make_protocol(settings, 10).order == order
    assert make_protocol(SETTINGS, 10).order[:3] == (4, 2, 7)


# What is damaged, or another run's


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


@pytest.mark.parametrize("arrays", [{}, {"fingerprint": np.array("x")}, {"fingerprint": 1}])
def test_phase_0_of_a_hostile_file(tmp_path, arrays):
    write_arrays(RunDirectory(tmp_path / "other").base_model, arrays)
    run = {"run_dir": str(tmp_path / "run"), "phase0_from": str(tmp_path / "other")}
    with pytest.raises(UserError, match="--phase0_from=.* other settings, data or class order"):
        make(changed(SETTINGS, run=run)).run()
