"""Exemplars that learn within a budget in bytes, which learned pixels may overdraw."""

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.bilevel.objectives.unrolled_training import UnrolledTraining
from mnemonics_tf.data.image_set import ArrayImageSet
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.budget import kept_within, make_budget
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.phases import judge
from mnemonics_tf.settings import ExemplarSettings
from tests.phases.exemplar_stages import make, rehearsed_as

BYTES_PER_CLASS = 700


@pytest.fixture
def grainy(monkeypatch):
    """Meta-gradients that are noise, so that what is learned compresses worse than real images."""

    def value_and_gradient(self, exemplars, labels, learning, outer, *key):
        noise = np.random.default_rng(0).normal(size=exemplars.shape)
        return tf.constant(1.0), tf.constant(noise, tf.float32)

    monkeypatch.setattr(UnrolledTraining, "value_and_gradient", value_and_gradient)


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
    assert state.metrics["exemplars"]["held_out_accuracy"]["stored"] == len(judged) / 10


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
