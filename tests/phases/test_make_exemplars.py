"""The exemplar level of a phase on real digits, mostly with a fake in place of meta-gradients."""

import json

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnemonics_tf import devices
from mnemonics_tf.bilevel.objectives.unrolled_training import UnrolledTraining
from mnemonics_tf.data.image_set import ArrayImageSet
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.budget import kept_within, make_budget
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.monitoring.summaries import Summaries
from mnemonics_tf.phases import judge
from mnemonics_tf.phases import make_exemplars as make_exemplars_module
from mnemonics_tf.settings import ExemplarSettings
from tests.phases.exemplar_stages import PER_CLASS, adjust, make, pixels


@pytest.mark.parametrize("selection", ["random", "herding"])
def test_selected_exemplars_are_training_images(stage, selection):
    workshop, state = stage.enter(0, exemplars=selection)
    make(workshop, state)
    assert state.memory.labels.tolist() == np.repeat(range(4), PER_CLASS).tolist()
    images = {image.tobytes(): label for image, label in training_images(state)}
    for image, label in zip(state.memory.images, state.memory.labels, strict=True):
        assert images[image.tobytes()] == label
    assert "exemplars" not in state.metrics


def training_images(state):
    return zip(state.training_set.load_all(), state.training_set.labels, strict=True)


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
    assert set(figures["held_out_accuracy"]) == {"start", "float", "uint8"}
    assert {"margin_start", "margin_end", "margin_herding"} <= set(figures)


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


def rehearsed_as(monkeypatch, scores):
    """Rehearsals that end with these scores; returns the memories they were asked of."""
    memories, left = [], iter(scores)

    def rehearsal(*arguments):
        return lambda memory: memories.append(memory) or next(left)

    monkeypatch.setattr(judge, "rehearsal", rehearsal)
    return memories


@pytest.mark.parametrize(("end", "kept"), [(0.6, 2), (0.5, 0)])
def test_a_rehearsal_keeps_the_start_where_nothing_is_better(stage, calls, monkeypatch, end, kept):
    memories = rehearsed_as(monkeypatch, [0.5, 0.4, end])
    workshop, state = stage.enter(0, validation="rehearsal")
    make(workshop, state)
    assert len(memories) == 3
    figures = state.metrics["exemplars"]
    assert figures["steps_kept"] == kept
    assert figures["held_out_accuracy"] == {"start": 0.5, "float": end, "uint8": end}
    # What is judged is what would be stored, and what is stored is what was judged best.
    np.testing.assert_array_equal(state.memory.images, memories[kept].images)
    assert np.any(memories[0].images != memories[2].images)


def test_one_new_class_is_judged_by_the_probe(stage, calls, monkeypatch, caplog):
    memories = rehearsed_as(monkeypatch, [])
    workshop, state = stage.enter(1, validation="rehearsal", few_new_classes="beside")
    with caplog.at_level("INFO", logger="mnemonics_tf"):
        make(workshop, with_new_classes(state, 1))
    assert "the probe judges instead" in caplog.text
    assert memories == []
    assert len(state.metrics["exemplars"]["validations"]) == 3


def test_a_method_that_would_hold_all_exemplars_out_is_not_rehearsed(
    stage, calls, monkeypatch, caplog
):
    """BiC holds out one at least, and of a single one none would be left to train on."""
    memories = rehearsed_as(monkeypatch, [])
    values = {"method": "bic", "exemplars_per_class": 1}
    workshop, state = stage.enter(0, validation="rehearsal", **values)
    with caplog.at_level("INFO", logger="mnemonics_tf"):
        make(workshop, state)
    assert "--method=bic would hold all exemplars of a class out" in caplog.text
    assert memories == []


def test_without_held_out_images_the_newest_exemplars_stay(stage, calls):
    workshop, state = stage.enter(0, validation_share=0.0)
    make(workshop, state)
    assert state.metrics["exemplars"]["validations"] == []
    assert "held_out_accuracy" not in state.metrics["exemplars"]
    assert len(calls[0]["label"]) == len(state.training_set)


def with_new_classes(state, count: int):
    """The phase as if it brought fewer classes."""
    new = range(4, 4 + count)
    rows = np.flatnonzero(np.isin(state.training_set.labels, new))
    state.phase = Phase(1, new, range(new.stop))
    state.training_set = state.training_set.subset(rows)
    return state


@pytest.mark.parametrize("count", [1, 2])
def test_few_new_classes_learn_and_are_judged_beside_old_ones(
    stage, calls, monkeypatch, caplog, count
):
    judged = []

    def probe_accuracy(features, labels, held_out, expected, by_class):
        judged.append((labels, expected, by_class))
        return 0.5 if len(judged) == 1 else 0.25  # learning does not help

    monkeypatch.setattr(judge, "probe_accuracy", probe_accuracy)
    workshop, state = stage.enter(1, few_new_classes="beside")
    state = with_new_classes(state, count)
    old = state.memory.images.copy()
    with caplog.at_level("INFO", logger="mnemonics_tf"):
        make(workshop, state)
    new = {1: "1 new class", 2: "2 new classes"}[count]
    assert f"those of {new} learn beside 8 exemplars of 4 old classes" in caplog.text
    assert "the exemplars stay as they were chosen" in caplog.text
    assert state.memory.labels.tolist() == np.repeat(range(4 + count), PER_CLASS).tolist()
    np.testing.assert_array_equal(state.memory.images[: len(old)], old)
    # One exemplar of each old class is a judge, and no one learns from it.
    beside = [*np.repeat(range(4), PER_CLASS - 1), *np.repeat(range(4, 4 + count), PER_CLASS)]
    assert calls[0]["labels"].tolist() == beside
    assert np.bincount(calls[0]["label"])[:4].tolist() == [PER_CLASS - 1] * 4
    labels, expected, by_class = judged[0]
    assert labels.tolist() == beside
    assert np.bincount(expected)[:4].tolist() == [1] * 4
    assert set(expected.tolist()) == set(range(4 + count))
    assert by_class
    chosen = {image.tobytes() for image, _ in training_images(state)}
    assert {image.tobytes() for image in state.memory.images[len(old) :]} <= chosen


def test_old_exemplars_are_no_judges_where_a_rehearsal_judges(stage, calls, monkeypatch):
    memories = rehearsed_as(monkeypatch, [0.5, 0.6, 0.7])
    workshop, state = stage.enter(1, validation="rehearsal", few_new_classes="beside")
    make(workshop, with_new_classes(state, 2))
    assert len(memories) == 3
    assert calls[0]["labels"].tolist() == np.repeat(range(6), PER_CLASS).tolist()


def test_few_new_classes_without_judges(stage, calls):
    workshop, state = stage.enter(1, validation_share=0.0, few_new_classes="beside")
    make(workshop, with_new_classes(state, 1))
    assert calls[0]["labels"].tolist() == np.repeat(range(5), PER_CLASS).tolist()
    assert state.metrics["exemplars"]["validations"] == []


@pytest.mark.parametrize("count", [1, 2])
def test_exemplars_of_few_new_classes_stay_as_chosen(stage, calls, caplog, count):
    """Chosen among all of their images: none is held out."""
    workshop, state = stage.enter(1)
    with caplog.at_level("INFO", logger="mnemonics_tf"):
        make(workshop, with_new_classes(state, count))
    assert "theirs stay as chosen (--few_new_classes=beside" in caplog.text
    assert calls == []
    chosen = stage.enter(1, exemplars="random")
    make(chosen[0], with_new_classes(chosen[1], count))
    np.testing.assert_array_equal(state.memory.images, chosen[1].memory.images)


def test_few_new_classes_learn_alone_to_the_letter(stage, calls):
    workshop, state = stage.enter(1, few_new_classes="alone")
    make(workshop, with_new_classes(state, 2))
    assert calls[0]["labels"].tolist() == np.repeat([4, 5], PER_CLASS).tolist()
    assert set(np.array(calls[0]["label"]).tolist()) == {4, 5}


def test_few_new_classes_learn_beside_old_ones_where_all_do(stage, calls):
    workshop, state = stage.enter(1, train_beside_old=True, validation_share=0.0)
    make(workshop, with_new_classes(state, 1))
    assert set(calls[0]["labels"].tolist()) == set(range(5))


def test_one_class_alone_has_nothing_to_tell(stage, calls, caplog):
    workshop, state = stage.enter(0)
    state.phase = Phase(0, range(1), range(1))
    state.training_set = state.training_set.subset(state.training_set.indices_of(0))
    make(workshop, state)
    assert calls == []
    assert "they stay as chosen" in caplog.text
    assert state.memory.labels.tolist() == [0] * PER_CLASS


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
    with pytest.raises(UserError, match="--outer_batch_size"):
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
        *(f"exemplars/held_out_accuracy/{name}" for name in ("start", "float", "uint8")),
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
    judged = iter([*scores, 0.0, 0.0])  # the last two: of the exemplars in the end
    monkeypatch.setattr(judge, "probe_accuracy", lambda *_: next(judged))
    workshop, state = stage.enter(0)
    with caplog.at_level("INFO", "mnemonics_tf"):
        make(workshop, state)
    assert state.metrics["exemplars"]["steps_kept"] == kept
    assert any(told in message for message in caplog.messages)
    start = workshop.pipeline.normalization.to_uint8(tf.constant(calls[0]["exemplars"])).numpy()
    assert np.array_equal(state.memory.images, start) == (kept == 0)


@pytest.fixture
def grainy(monkeypatch):
    """Meta-gradients that are noise, so that what is learned compresses worse than real images."""

    def value_and_gradient(self, exemplars, labels, learning, outer, *key):
        noise = np.random.default_rng(0).normal(size=exemplars.shape)
        return tf.constant(1.0), tf.constant(noise, tf.float32)

    monkeypatch.setattr(UnrolledTraining, "value_and_gradient", value_and_gradient)


BYTES_PER_CLASS = 700


def enter_with_bytes(stage, **values):
    """Phase 0 of a run whose budget counts the bytes of lossless WebP."""
    workshop, state = stage.enter(
        0,
        codec="webp_lossless",
        exemplars_per_class=ExemplarSettings().exemplars_per_class,
        exemplar_bytes_per_class=BYTES_PER_CLASS,
        **values,
    )
    state.memory = ExemplarMemory.empty((8, 8, 1), codec="webp_lossless")
    return workshop, state


def test_a_probe_asks_the_exemplars_that_the_budget_will_leave(stage, grainy, monkeypatch):
    judged = []

    def probe_accuracy(features, labels, held_out, expected, by_class):
        judged.append(labels)
        return len(judged) / 10

    monkeypatch.setattr(judge, "probe_accuracy", probe_accuracy)
    workshop, state = enter_with_bytes(stage)
    make(workshop, state)
    kept = kept_within(state.memory, make_budget(workshop.settings.exemplar), 4)
    assert len(kept) < len(state.memory)
    assert judged[0].tolist() == state.memory.labels.tolist()
    assert judged[-1].tolist() == kept.labels.tolist()
    assert state.metrics["exemplars"]["held_out_accuracy"]["uint8"] == len(judged) / 10


def test_a_rehearsal_has_the_exemplars_that_the_budget_will_leave(stage, grainy, monkeypatch):
    memories = rehearsed_as(monkeypatch, [0.5, 0.6, 0.7])
    workshop, state = enter_with_bytes(stage, validation="rehearsal")
    make(workshop, state)
    kept = kept_within(state.memory, make_budget(workshop.settings.exemplar), 4)
    assert memories[0].labels.tolist() == state.memory.labels.tolist()
    assert memories[2].labels.tolist() == kept.labels.tolist() != state.memory.labels.tolist()
    assert np.all(memories[2].bytes_by_class() <= BYTES_PER_CLASS)


def test_some_images_of_each_class_are_never_held_out(stage, calls):
    """However little a budget holds: which image fits is not known before they are encoded."""
    workshop, state = enter_with_bytes(stage, validation_share=1.0)
    workshop = workshop.changed(exemplar_bytes_per_class=120)
    make(workshop, state)
    assert np.bincount(calls[0]["label"]).tolist() == [8] * 4
    assert np.bincount(state.memory.labels).min() >= 1


def test_a_share_of_the_last_phase_too_small_is_refused_before_exemplars_learn(stage, calls):
    workshop, state = enter_with_bytes(stage)
    workshop = workshop.changed(exemplar_bytes_per_class=0, exemplar_bytes_total=10 * 90)
    with pytest.raises(UserError, match="bytes for each of 10 classes, but a single exemplar"):
        make(workshop, state)
    assert not calls


def test_what_is_held_out_of_a_class_is_decided_by_its_own_images(stage, calls):
    """Of a class that compresses well the memory may hold all; of others it can't."""
    workshop, state = enter_with_bytes(stage)
    images, labels = state.training_set.load_all(), state.training_set.labels
    images[labels == 0] = 0
    state.training_set = ArrayImageSet(images, labels)
    make(workshop, state)
    learned_from, everything = np.bincount(calls[0]["label"]), np.bincount(labels)
    assert learned_from[0] == everything[0]
    assert np.all(learned_from[1:] < everything[1:])
