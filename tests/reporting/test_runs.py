"""Results that are read for a report, and those that are none."""

import pathlib

import numpy as np
import pytest

from mnemonics_tf.errors import UserError
from mnemonics_tf.reporting.runs import load_runs
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import write_arrays, write_json
from tests.reporting.report_runs import contents, with_learned

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "docs" / "results"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: run.pop("phases"), "'phases' is missing"),
        (lambda run: run["phases"].reverse(), "phases/0/phase: expected 0, found 1"),
        (
            lambda run: run["phases"][0]["heads"]["nme"].update(accuracy=float("nan")),
            "phases/0/heads/nme/accuracy: expected a number from 0 to 1, found NaN",
        ),
        (
            lambda run: run["phases"][1]["heads"]["nme"].update(group_accuracies=[0.5]),
            "heads/nme/group_accuracies: expected 2 entries, found 1",
        ),
        (lambda run: run["phases"][0].update(heads=3), "phases/0/heads: expected an object"),
        (lambda run: run["protocol"].pop("dataset"), "protocol: 'dataset' is missing"),
        (
            lambda run: run.update(settings={"training": 3}),
            "settings/training: expected an object, found 3",
        ),
        (
            lambda run: run["phases"][0].update(seconds={"train": "long"}),
            "seconds/train: expected a number",
        ),
        (lambda run: run.update(prediction_head="oracle"), "prediction_head: expected"),
    ],
)
def test_files_that_are_no_results(write, change, message):
    run = contents()
    change(run)
    with pytest.raises(UserError, match="0.json is not a results.json") as raised:
        load_runs(write(run))
    assert message in str(raised.value)


LARGE = 10**400
MISTYPED = {
    "stages": lambda run: run["phases"][1].update(stages=[1]),
    "exemplars": lambda run: run["phases"][1].update(stages={"exemplars": {"meta_loss": ["x"]}}),
    "adjust": lambda run: run["phases"][1].update(stages={"adjust": {"count": LARGE}}),
    "margin_end": lambda run: run["phases"][0].update(stages={"adjust": {"margin_end": LARGE}}),
    "hardware": lambda run: run.update(hardware=[1]),
    "packages": lambda run: run.update(packages="numpy"),
    "exemplar_seed": lambda run: run["settings"]["exemplar"].update(exemplar_seed="one"),
    "seed": lambda run: run["settings"]["protocol"].update(seed=LARGE),
    "method": lambda run: run["settings"]["training"].update(method=["lwf"]),
    "epochs": lambda run: run["settings"]["training"].update(epochs=LARGE),
    "depth": lambda run: run["settings"]["model"].update(depth={}),
    "num_phases": lambda run: run["protocol"].update(num_phases=LARGE),
    "num_seen": lambda run: run["phases"][0].update(num_seen=LARGE),
    "num_seen must grow": lambda run: run["phases"][1].update(num_seen=5),
    "train": lambda run: run["phases"][0]["seconds"].update(train=LARGE),
    "class_order": lambda run: run.update(class_order=[1, 2, 3]),
    "class_order: expected each": lambda run: run.update(class_order=[1] * 10),
    "class_names": lambda run: run.update(class_names=list("abc")),
    "data_digests": lambda run: run.update(data_digests=[1]),
    "learned/settings/protocol/seed": lambda run: with_learned(run, protocol__seed=[1]),
    "exemplar_bytes_total": lambda run: with_learned(run, exemplar__exemplar_bytes_total=[1]),
    "phase0_seed": lambda run: run.update(phase0_seed=[0]),
    "phase0_mixed_precision": lambda run: run.update(phase0_mixed_precision=None),
    "mixed_precision": lambda run: run["settings"]["training"].update(mixed_precision=[]),
    "backbone_digests": lambda run: run.update(backbone_digests={"weights": 1}),
}


@pytest.mark.parametrize("place", MISTYPED)
def test_values_of_another_kind_are_named(write, place):
    run = contents()
    MISTYPED[place](run)
    with pytest.raises(UserError, match=rf"not a results.json .*: .*{place}") as raised:
        load_runs(write(run))
    assert len(str(raised.value)) < 400


def test_labels_may_be_any_numbers_of_32_bits(write):
    run = contents()
    run["class_order"] = [-(2**31), 2**31 - 1, *range(8)]
    assert len(load_runs(write(run))) == 1


def test_published_results_are_of_the_right_shape():
    paths = [p for p in RESULTS.rglob("*.json") if '"summary"' in p.read_text()[:20]]
    assert len(paths) > 10
    assert len(load_runs(paths)) == len(paths)


def test_results_that_are_not_those_of_their_phases(tmp_path):
    directory = RunDirectory(tmp_path)
    run = contents()
    write_json(directory.results, run)
    for record in run["phases"]:
        write_json(directory.record(record["phase"]), record)
    assert len(load_runs([str(tmp_path)])) == 1
    run["phases"][1]["heads"]["nme"]["accuracy"] = 0.61
    write_json(directory.record(1), run["phases"][1])
    with pytest.raises(UserError, match=r"results\.json and .*01/phase\.json contradict"):
        load_runs([str(tmp_path)])
    write_json(directory.results, run)
    labels = np.arange(10)
    arrays = {"labels": labels, "classifier": labels, "nme": labels}
    write_arrays(directory.predictions(1), arrays)
    with pytest.raises(UserError, match=r"results\.json and .*01/predictions\.npz contradict"):
        load_runs([str(tmp_path)])


def test_a_run_that_is_not_at_its_end_is_told_from_none(tmp_path):
    with pytest.raises(UserError, match="holds no results.json: it is no run"):
        load_runs([tmp_path])
    directory = RunDirectory(tmp_path)
    write_json(directory.settings, {})
    with pytest.raises(UserError, match="no phase of it is done"):
        load_runs([tmp_path])
    for phase in (0, 1):
        write_json(directory.record(phase), {})
    with pytest.raises(UserError, match="with --last_phase=1 writes that of the phases up to 1"):
        load_runs([tmp_path])


def test_a_finished_run_is_told_how_its_lost_results_are_made_again(tmp_path):
    directory = RunDirectory(tmp_path)
    write_json(directory.settings, {})
    write_json(directory.classes, {"phases": [["cat"], ["dog"]]})
    for phase in (0, 1):
        write_json(directory.record(phase), {})
    told = "all its phases are done: start its command again, .* of phases 0 to 1"
    with pytest.raises(UserError, match=told):
        load_runs([tmp_path])
    learned = {"dataset": "npz", "data_dir": "new.npz", "classes": ["owl"], "export": True}
    learned |= {"original_ids": [2], "training_images": [5], "settings": {}}
    write_json(directory.learned(2), learned | {"data_digests": {"training": "a", "test": "b"}})
    with pytest.raises(UserError, match=told):  # a phase that was only begun is none of the run's
        load_runs([tmp_path])
    write_json(directory.record(2), {})
    told = "start its train command, or the last one of learn, again, .* of phases 0 to 2"
    with pytest.raises(UserError, match=told):
        load_runs([tmp_path])


def test_a_folder_of_runs_names_them(tmp_path):
    for name in ("a b", "c"):
        write_json(RunDirectory(tmp_path / name).results, contents())
    with pytest.raises(UserError) as raised:
        load_runs([tmp_path])
    told = f"{tmp_path} is no run, but holds some: pass them, '{tmp_path}/a b' {tmp_path}/c"
    assert str(raised.value) == told
