"""What judges learned exemplars: images held out, by a probe or a rehearsal."""

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.phases import judge
from tests.phases.exemplar_stages import make, pixels, rehearsed_as, training_images


def test_held_out_images_are_never_candidates(stage, calls, monkeypatch):
    """They come neither into the memory nor into the data that exemplars learn from."""
    judged = []
    monkeypatch.setattr(
        judge,
        "probe_accuracy",
        lambda features, labels, held_out, expected, by_class: judged.append(expected) or 0.5,
    )
    workshop, state = stage.enter(0, inner_scope="transfer", validation_share=0.2)
    make(workshop, state)
    outer = set(pixels(workshop, calls[0]["image"]))
    everything = [image.tobytes() for image, _ in training_images(state)]
    assert set(pixels(workshop, calls[0]["exemplars"])) <= outer
    assert outer <= set(everything)
    assert len(calls[0]["label"]) + len(judged[0]) == len(everything)
    counts = np.bincount(state.training_set.labels)
    np.testing.assert_array_equal(np.bincount(judged[0]), np.round(0.2 * counts))
    # As many images are missing as were held out, so none of them was seen.
    assert len(set(everything) - outer) == len(judged[0])


def test_few_images_leave_enough_candidates(stage, calls):
    workshop, state = stage.enter(0, exemplars_per_class=10, validation_share=0.9)
    members = [state.training_set.indices_of(label)[:12] for label in range(4)]
    state.training_set = state.training_set.subset(np.concatenate(members))
    make(workshop, state)
    assert np.bincount(state.memory.labels).tolist() == [10] * 4
    assert np.bincount(calls[0]["label"]).tolist() == [10] * 4


def test_a_memory_that_may_hold_all_images_leaves_none_to_judge_by(stage, calls, caplog):
    workshop, state = stage.enter(0, exemplars_per_class=12, validation_share=0.5)
    members = [state.training_set.indices_of(label)[:12] for label in range(4)]
    state.training_set = state.training_set.subset(np.concatenate(members))
    with caplog.at_level("WARNING", logger="mnemonics_tf"):
        make(workshop, state)
    assert "no image is held out to judge by (--validation)" in caplog.text
    assert state.metrics["exemplars"]["validations"] == []


@pytest.mark.parametrize(("end", "kept"), [(0.6, 2), (0.5, 0)])
def test_a_rehearsal_keeps_the_start_where_nothing_is_better(stage, calls, monkeypatch, end, kept):
    memories = rehearsed_as(monkeypatch, [0.5, 0.4, end])
    workshop, state = stage.enter(0, validation="rehearsal")
    make(workshop, state)
    assert len(memories) == 3
    figures = state.metrics["exemplars"]
    assert figures["steps_kept"] == kept
    assert figures["held_out_accuracy"] == {"start": 0.5, "stored": max(end, 0.5)}
    # What is judged is what would be stored, and what is stored is what was judged best.
    np.testing.assert_array_equal(state.memory.images, memories[kept].images)
    assert np.any(memories[0].images != memories[2].images)


def test_a_probe_asks_the_exemplars_as_they_are_stored(stage, calls, monkeypatch):
    """Moved by less than rounding takes back, they are what they began as."""
    asked = []
    monkeypatch.setattr(
        judge, "probe_accuracy", lambda features, *_: asked.append(features) or len(asked) / 10
    )
    workshop, state = stage.enter(0, outer_learning_rate=0.001)
    make(workshop, state)
    started = workshop.pipeline.normalization.to_uint8(tf.constant(calls[0]["exemplars"])).numpy()
    assert np.any(calls[1]["exemplars"] != calls[0]["exemplars"])
    np.testing.assert_array_equal(state.memory.images, started)
    np.testing.assert_array_equal(asked[2], asked[0])
    assert state.metrics["exemplars"]["held_out_accuracy"] == {"start": 0.1, "stored": 0.3}


def test_a_method_that_would_hold_all_exemplars_out_is_not_rehearsed(
    stage, calls, monkeypatch, caplog
):
    """BiC holds out one at least, and of a single one none would be left to train on."""
    memories = rehearsed_as(monkeypatch, [])
    monkeypatch.setattr(judge, "probe_accuracy", lambda *_: 0.5)
    values = {"method": "bic", "exemplars_per_class": 1}
    workshop, state = stage.enter(0, validation="rehearsal", **values)
    with caplog.at_level("INFO", logger="mnemonics_tf"):
        make(workshop, state)
    assert "--method=bic would hold all exemplars of a class out" in caplog.text
    assert memories == []
    assert state.metrics["exemplars"]["steps_kept"] == 2  # level scores, as a probe has it


def test_without_held_out_images_the_newest_exemplars_stay(stage, calls):
    workshop, state = stage.enter(0, validation_share=0.0)
    make(workshop, state)
    assert state.metrics["exemplars"]["validations"] == []
    assert "held_out_accuracy" not in state.metrics["exemplars"]
    assert len(calls[0]["label"]) == len(state.training_set)


@pytest.mark.parametrize(
    ("scores", "kept", "told"),
    [
        ([0.5, 0.4, 0.3], 0, "did not help: held-out accuracy was 0.500 at the start and at best"),
        ([0.5, 0.6, 0.3], 1, "0.500 at the start, 0.600 after 1 of 2 steps, which are kept"),
        ([0.5, 0.5, 0.5], 2, "0.500 at the start, 0.500 after 2 of 2 steps, which are kept"),
    ],
    ids=["no help", "the first step", "level"],
)
def test_what_held_out_images_chose_is_told(stage, calls, monkeypatch, caplog, scores, kept, told):
    judged = iter(scores)
    monkeypatch.setattr(judge, "probe_accuracy", lambda *_: next(judged))
    workshop, state = stage.enter(0)
    with caplog.at_level("INFO", "mnemonics_tf"):
        make(workshop, state)
    assert state.metrics["exemplars"]["steps_kept"] == kept
    assert any(told in message for message in caplog.messages)
    start = workshop.pipeline.normalization.to_uint8(tf.constant(calls[0]["exemplars"])).numpy()
    assert np.array_equal(state.memory.images, start) == (kept == 0)
