"""Drifted copies: other features than those of the model they come from, which stays as it is."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.phases.pool import drifted_copies
from mnemonics_tf.run.interruption import RunInterruptedError
from mnemonics_tf.settings import ProtocolSettings, RunSettings, Settings, TrainingSettings
from mnemonics_tf.tracing import TRACES

pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture(scope="module")
def phase(tmp_path_factory):
    settings = Settings(
        run=RunSettings(run_dir=str(tmp_path_factory.mktemp("run"))),
        protocol=ProtocolSettings(base_classes=3, num_phases=1),
        training=TrainingSettings(finetune_epochs=2, finetune_learning_rate=0.05),
    )
    experiment = Experiment(settings, load_digits(), tf.distribute.get_strategy())
    return experiment.workshop, experiment.begin_phase(experiment.protocol.phases[0])


def copies(workshop, state, size, seed=0):
    settings = workshop.settings.changed(exemplar_seed=seed, pool_size=size)
    workshop = dataclasses.replace(workshop, settings=settings)
    nothing, copy = state.memory.as_image_set(), workshop.copy_of(state.model, "pool")
    images = state.training_set
    stage = state.stage("exemplars")
    return drifted_copies(workshop, state.phase, state.model, copy, images, nothing, 4, stage)


@pytest.mark.slow
def test_the_first_is_the_model_itself_and_nothing_happens_to_it(phase):
    workshop, state = phase
    before = state.model.state()
    states = copies(workshop, state, 3)
    assert len(states) == 3
    for found in (states[0], state.model.state()):
        for name, values in found.items():
            np.testing.assert_array_equal(values, before[name])


def test_copies_drift_ever_further_from_its_features(phase):
    workshop, state = phase
    images = state.training_set.load_all().astype(np.float32) / 255
    model, features = state.model.frozen_copy(), []
    for weights in copies(workshop, state, 3):
        model.set_state(weights)
        features.append(model.backbone(images).numpy())
    distances = [np.linalg.norm(other - features[0]) for other in features[1:]]
    assert 0 < distances[0] < distances[1]


def test_they_can_be_stopped(phase, monkeypatch):
    workshop, state = phase
    monkeypatch.setattr(state.stop, "agreed", lambda: True)
    with pytest.raises(RunInterruptedError):
        copies(workshop, state, 2)


def test_the_seed_decides_them(phase):
    first, again, other = (copies(*phase, 2, seed)[1] for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(np.any(first[name] != other[name]) for name in first)


def test_all_copies_of_all_phases_share_a_graph(phase):
    before = TRACES.counts.copy()
    for seed in (3, 4):
        copies(*phase, 3, seed)
    assert (TRACES.counts - before).total() <= 1
