"""Whole runs on the handwritten digits, small enough for a processor."""

import numpy as np
import pytest

from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.errors import UserError
from mnemonics_tf.phases.asked_for import make_protocol
from mnemonics_tf.run.files import read_arrays, read_json
from tests.digit_runs import SETTINGS, Run, changed, make, run_watched


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


# Upper bound, total budget


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
