"""Adjustment of old exemplars, mostly with a fake in place of meta-gradients."""

import dataclasses

import numpy as np
import pytest

from mnemonics_tf import devices
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.models.layer_outputs import layer_bytes
from mnemonics_tf.phases.learning import as_exemplars, with_learned
from tests.phases.exemplar_stages import PER_CLASS, adjust, make, pixels


def test_adjustment_changes_old_exemplars_alone(stage, calls):
    workshop, state = stage.after_new_exemplars()
    before = state.memory
    adjust(workshop, state)
    old = before.labels < 4
    np.testing.assert_array_equal(state.memory.labels, before.labels)
    np.testing.assert_array_equal(state.memory.images[~old], before.images[~old])
    changed = np.any(state.memory.images[old] != before.images[old], axis=(1, 2, 3))
    assert np.all(changed)
    assert state.memory.images.dtype == np.uint8
    assert state.metrics["adjust"]["count"] == 4 * PER_CLASS


@pytest.mark.parametrize(("rate", "warned"), [(1e-5, True), (0.1, False)])
def test_an_adjustment_that_rounding_takes_away_is_told(stage, calls, caplog, rate, warned):
    workshop, state = stage.after_new_exemplars(adjust_learning_rate=rate)
    before = state.memory.images
    caplog.clear()
    with caplog.at_level("WARNING", "mnemonics_tf"):
        adjust(workshop, state)
    assert np.array_equal(state.memory.images, before) == warned
    assert any("--adjust_learning_rate" in message for message in caplog.messages) == warned


@pytest.mark.parametrize(
    ("bound", "advice"), [(0.0, "raise --max_shift"), (255.0, "raise --adjust_learning_rate")]
)
def test_what_bounds_an_adjustment_is_what_is_to_be_raised(stage, calls, caplog, bound, advice):
    workshop, state = stage.after_new_exemplars(max_shift=bound, adjust_learning_rate=1e-5)
    adjust(workshop, state)
    assert advice in caplog.text


def test_what_does_not_move_is_not_encoded_again(stage, calls):
    workshop, state = stage.enter(1, exemplars="random", codec="jpeg", max_shift=0.0)
    memory = ExemplarMemory(state.memory.images, state.memory.labels, codec="jpeg")
    state.memory = memory
    rows = np.arange(len(memory))
    exemplars = as_exemplars(workshop, memory, rows, np.ones(len(rows), bool))
    assert with_learned(workshop, memory, rows, exemplars) is memory
    exemplars.images[1] += 0.5
    again = with_learned(workshop, memory, rows, exemplars)
    assert [np.array_equal(*pair) for pair in zip(again.images, memory.images, strict=True)] == [
        place != 1 for place in rows
    ]


def test_an_adjusted_subset_is_measured_on_its_complement(stage, calls):
    workshop, state = stage.after_new_exemplars()
    everything = sorted(
        image.tobytes()
        for image, label in zip(state.memory.images, state.memory.labels, strict=True)
        if label < 4
    )
    adjust(workshop, state)
    first = calls[0]
    inner, outer = pixels(workshop, first["exemplars"]), pixels(workshop, first["image"])
    assert sorted(inner + outer) == everything
    assert set(first["labels"]) == set(first["label"].numpy()) == set(range(4))


def test_a_step_needs_memory_for_its_part_of_the_exemplars_alone(stage, calls, monkeypatch):
    """Of three of each of four classes two can fall into one subset, and two into the other."""
    workshop, state = stage.after_new_exemplars(inner_scope="all", inner_batch_size=0)
    of_a_row = 4 * layer_bytes(state.model.backbone)
    monkeypatch.setattr(devices, "available_bytes", lambda: 8 * of_a_row - 1)
    with pytest.raises(UserError, match=r"--inner_batch_size \(now 8\) or --outer_.* \(now 8\)"):
        adjust(workshop, state)
    assert calls == []
    monkeypatch.setattr(devices, "available_bytes", lambda: 8 * of_a_row)
    adjust(workshop, state)


@pytest.mark.parametrize("changes", [{"adjust_old_exemplars": False}, {}])
def test_no_adjustment_in_phase_0_or_unless_asked_for(stage, calls, changes):
    if changes:
        workshop, state = stage.after_new_exemplars(**changes)
    else:
        workshop, state = stage.enter(0, exemplars="random")
        make(workshop, state)
    before = state.memory
    adjust(workshop, state)
    assert state.memory is before
    assert calls == []


def test_one_exemplar_a_class_cannot_be_split(stage, calls):
    workshop, state = stage.after_new_exemplars(exemplars_per_class=1)
    state.memory = state.memory.trimmed(1)
    before = state.memory
    with pytest.raises(UserError) as error:
        adjust(workshop, state)
    for words in ("2 subsets", "1 exemplar", "--skip_adjustment_if_too_few"):
        assert words in str(error.value)
    assert "--noadjust_old_exemplars" in str(error.value)

    skipping = workshop.settings.changed(skip_adjustment_if_too_few=True)
    adjust(dataclasses.replace(workshop, settings=skipping), state)
    assert state.memory is before
    assert calls == []
