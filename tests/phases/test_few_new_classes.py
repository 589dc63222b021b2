"""Exemplars of one or two new classes: which learn, and beside what."""

import numpy as np
import pytest

from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.phases import judge
from tests.phases.exemplar_stages import PER_CLASS, make, rehearsed_as, training_images


def with_new_classes(state, count: int):
    """The phase as if it brought fewer classes."""
    new = range(4, 4 + count)
    rows = np.flatnonzero(np.isin(state.training_set.labels, new))
    state.phase = Phase(1, new, range(new.stop))
    state.training_set = state.training_set.subset(rows)
    return state


def test_one_new_class_is_judged_by_the_probe(stage, calls, monkeypatch, caplog):
    memories = rehearsed_as(monkeypatch, [])
    workshop, state = stage.enter(1, validation="rehearsal", few_new_classes="beside")
    with caplog.at_level("INFO", logger="mnemonics_tf"):
        make(workshop, with_new_classes(state, 1))
    assert "the probe judges instead" in caplog.text
    assert memories == []
    assert len(state.metrics["exemplars"]["validations"]) == 3


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


@pytest.mark.parametrize("validation", ["probe", "rehearsal"])
def test_one_class_alone_is_not_judged(stage, calls, monkeypatch, caplog, validation):
    """Any exemplars are right about it."""
    memories = rehearsed_as(monkeypatch, [])
    workshop, state = stage.enter(1, validation=validation, few_new_classes="alone")
    state = with_new_classes(state, 1)
    with caplog.at_level("INFO", logger="mnemonics_tf"):
        make(workshop, state)
    assert "one class alone gives no judge anything to tell apart" in caplog.text
    assert memories == []
    assert state.metrics["exemplars"]["steps_kept"] == 2
    assert len(calls[0]["label"]) == len(state.training_set)  # none is held out


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
