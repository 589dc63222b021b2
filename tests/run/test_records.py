"""Records that contradict the predictions beside them."""

import numpy as np
import pytest

from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluation.evaluator import Predictions
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import write_arrays
from mnemonics_tf.run.records import record_shape, refuse_contradictions

LABELS = [np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1, 2])]
HEADS = [
    {"classifier": np.array([0, 1, 1, 1]), "nme": np.array([0, 0, 1, 1])},
    {"classifier": np.array([0, 2, 1, 2, 2]), "nme": np.array([2, 0, 1, 1, 0])},
]
GROUPS = [range(2), range(2, 3)]


@pytest.fixture
def directory(tmp_path) -> RunDirectory:
    directory = RunDirectory(tmp_path)
    for index in range(2):
        arrays = {"labels": LABELS[index], **HEADS[index]}
        write_arrays(directory.predictions(index), arrays)
    return directory


def make_records() -> list[dict]:
    return [
        {
            "phase": index,
            "num_seen": 2 + index,
            "heads": Predictions(LABELS[index], HEADS[index]).summary(GROUPS[: index + 1]),
        }
        for index in range(2)
    ]


def test_records_that_agree(directory):
    records = make_records()
    assert [record_shape(index)(record) for index, record in enumerate(records)] == [None, None]
    refuse_contradictions(directory, records)
    directory.predictions(0).unlink()  # as for workers beside the chief
    refuse_contradictions(directory, records)


CHANGES = {
    "accuracy 90": lambda head: head.update(accuracy=0.9),
    "accuracy on group 1 0": lambda head: head.update(group_accuracies=[0.5, 0.0]),
    "another confusion matrix": lambda head: head["confusion_matrix"].reverse(),
}


@pytest.mark.parametrize("message", CHANGES)
def test_a_changed_digit_is_found_and_its_file_named(directory, message):
    records = make_records()
    CHANGES[message](records[1]["heads"]["classifier"])
    with pytest.raises(UserError, match=f"01/phase.json and .*predictions.npz .*{message}"):
        refuse_contradictions(directory, records)
    with pytest.raises(UserError, match="^results.json and .*01/predictions.npz"):
        refuse_contradictions(directory, records, "results.json")


@pytest.mark.parametrize(
    "change",
    [
        {"labels": np.array([0, 0, 1])},
        {"nme": np.array([0, 0, 1, 2])},
        {"nme": np.zeros(4)},
        {"classifier": np.array(3)},
        {"labels": np.array(["0"] * 4)},
    ],
)
def test_predictions_that_are_none(directory, change):
    arrays = {"labels": LABELS[0], **HEADS[0]}
    write_arrays(directory.predictions(0), arrays | change)
    with pytest.raises(UserError, match="00/predictions.npz is damaged"):
        refuse_contradictions(directory, make_records())


@pytest.mark.parametrize("matrix", [[[1]], [[1, 0, 0], [0, 1], [0, 0, 1]], []])
def test_a_matrix_of_another_size_is_no_record(matrix):
    record = make_records()[1]
    record["heads"]["nme"]["confusion_matrix"] = matrix
    assert "/heads/nme/confusion_matrix" in record_shape(1)(record)
