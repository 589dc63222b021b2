"""The exemplar level of a phase on real digits, mostly with a fake in place of meta-gradients."""

import json

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnemonics_tf import devices
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.monitoring.summaries import Summaries
from mnemonics_tf.phases import judge
from mnemonics_tf.phases import make_exemplars as make_exemplars_module
from tests.phases.exemplar_stages import PER_CLASS, adjust, make, pixels, training_images


@pytest.mark.parametrize("selection", ["random", "herding"])
def test_selected_exemplars_are_training_images(stage, selection):
    workshop, state = stage.enter(0, exemplars=selection)
    make(workshop, state)
    assert state.memory.labels.tolist() == np.repeat(range(4), PER_CLASS).tolist()
    images = {image.tobytes(): label for image, label in training_images(state)}
    for image, label in zip(state.memory.images, state.memory.labels, strict=True):
        assert images[image.tobytes()] == label
    assert "exemplars" not in state.metrics


def test_learned_exemplars_are_valid_images_of_their_classes(stage, calls):
    workshop, state = stage.enter(0)
    make(workshop, state)
    assert state.memory.images.dtype == np.uint8
    assert state.memory.images.shape == (4 * PER_CLASS, 8, 8, 1)
    assert state.memory.labels.tolist() == np.repeat(range(4), PER_CLASS).tolist()
    # Two steps of up to 0.1, that is of 0.1 x 0.3764 x 255 = 9.6 grey levels.
    start = workshop.pipeline.normalization.to_uint8(tf.constant(calls[0]["exemplars"])).numpy()
    moved = start.astype(int) - state.memory.images
    assert np.all(moved[start > 30] > 5)
    assert np.all(moved >= 0)


def test_a_run_keeps_what_a_few_learned_exemplars_began_as(stage, calls, monkeypatch):
    monkeypatch.setattr(make_exemplars_module, "_STARTS_CLASSES", 3)
    monkeypatch.setattr(make_exemplars_module, "_STARTS_PER_CLASS", 2)
    _, state = stage.enter(0)
    stage.experiment.run_stage("exemplars", state)
    starts = ExemplarMemory.load(stage.experiment.directory.exemplar_starts(0))
    assert starts.labels.tolist() == [0, 0, 1, 1, 3, 3]
    learning = pixels(stage.experiment.workshop, calls[0]["exemplars"])
    rows = [0, 1, 3, 4, 9, 10]  # of the three exemplars of each class
    assert [image.tobytes() for image in starts.images] == [learning[row] for row in rows]


def test_figures_can_be_written_and_hold_no_long_lists(stage, calls, monkeypatch):
    monkeypatch.setattr(judge, "probe_accuracy", lambda *arguments: 0.5)
    workshop, state = stage.enter(0, outer_steps=450, validation_every=225)
    make(workshop, state)
    figures = json.loads(json.dumps(state.metrics["exemplars"], allow_nan=False))
    assert figures["count"] == 4 * PER_CLASS
    assert figures["steps"] == 450
    assert len(figures["meta_loss"]) <= 200
    assert [step for step, _ in figures["validations"]] == [0, 225, 450]
    assert figures["pixel_distance"] > 0
    assert 0 < figures["feature_distance"] <= 2
    assert 0 <= figures["clipped_share"] <= 1
    assert set(figures["held_out_accuracy"]) == {"start", "stored"}
    assert {"margin_start", "margin_end", "margin_herding"} <= set(figures)


@pytest.mark.parametrize("beside", [True, False])
def test_old_exemplars_stand_beside_new_ones_unchanged(stage, calls, beside):
    workshop, state = stage.enter(1, train_beside_old=beside)
    old = state.memory.images.copy()
    make(workshop, state)
    np.testing.assert_array_equal(state.memory.images[: len(old)], old)
    assert state.memory.labels.tolist() == np.repeat(range(7), PER_CLASS).tolist()
    expected = range(7) if beside else range(4, 7)
    for call in calls:
        assert call["labels"].tolist() == np.repeat(expected, PER_CLASS).tolist()
        assert set(call["label"].numpy()) == set(expected)


@pytest.mark.slow
def test_a_pool_of_drifted_copies_takes_turns(stage, calls):
    pool = {"inner_start": "pool", "pool_size": 2, "train_beside_old": True}
    workshop, state = stage.enter(1, validation_share=0.0, **pool)
    make(workshop, state)
    evaluator = workshop.evaluator(state.model)
    of_theta = [
        evaluator.outputs(images).features.sum(axis=0)
        for images in (state.training_set, state.memory.as_image_set().subset(np.arange(12)))
    ]
    steps = [call for call in calls if call["key"][-1] in (0, 1)]
    first, second = (
        [call["feature"].numpy().sum(axis=0) for call in steps if call["key"][-1] == turn]
        for turn in (0, 1)
    )
    for seen in first:
        np.testing.assert_allclose(seen, sum(of_theta), rtol=1e-3)
    assert len(second) == 1
    assert np.linalg.norm(second[0] - first[0]) > 0.01 * np.linalg.norm(first[0])


def test_what_does_not_fit_into_memory_is_refused_before_work(stage, calls, monkeypatch):
    monkeypatch.setattr(devices, "available_bytes", lambda: 1000)
    workshop, state = stage.enter(0)
    with pytest.raises(UserError, match="GiB are there"):
        make(workshop, state)
    assert calls == []


@pytest.mark.slow
def test_the_exemplar_seed_decides_learned_exemplars(stage):
    """With true meta-gradients, through everything that is random about them."""

    def learned(seed):
        workshop, state = stage.enter(0, exemplar_seed=seed, inner_batch_size=6)
        make(workshop, state)
        return state.memory.images, state.metrics["exemplars"]["meta_loss"]

    (first, losses), (again, same_losses), (other, _) = learned(1), learned(1), learned(2)
    np.testing.assert_array_equal(first, again)
    assert losses == same_losses
    assert np.any(first != other)


def test_learning_and_adjustment_show_in_tensorboard(stage, calls, tmp_path):
    workshop, state = stage.enter(1)
    state.summaries = Summaries(tmp_path)
    make(workshop, state)
    adjust(workshop, state)
    found = EventAccumulator(str(tmp_path)).Reload()
    shown = ("pixel_distance", "margin_start", "margin_end", "start_end_difference")
    assert set(found.Tags()["tensors"]) == {
        "exemplars/phase01/meta_loss",
        "exemplars/phase01/held_out_accuracy",
        "exemplars/all_phases/meta_loss",
        "exemplars/all_phases/held_out_accuracy",
        *(f"exemplars/held_out_accuracy/{name}" for name in ("start", "stored")),
        "exemplars/margin_herding",
        "adjust/phase01/meta_loss",
        "adjust/all_phases/meta_loss",
        *(f"{name}/{tag}" for name in ("exemplars", "adjust") for tag in shown),
    }
    accuracies = found.Tensors("exemplars/phase01/held_out_accuracy")
    assert [event.step for event in accuracies] == [0, 1, 2]
    assert all(0 <= tf.make_ndarray(event.tensor_proto) <= 1 for event in accuracies)
    # Phase 0 had two outer steps before, and no adjustment.
    for stage_name, steps in (("exemplars", [2, 3]), ("adjust", [0, 1, 2, 3])):
        losses = found.Tensors(f"{stage_name}/all_phases/meta_loss")
        assert [event.step for event in losses] == steps
