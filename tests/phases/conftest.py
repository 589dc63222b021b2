"""What tests of the exemplar level begin with."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.bilevel.objectives.unrolled_training import UnrolledTraining
from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.run.files import write_arrays
from mnemonics_tf.settings import RunSettings
from tests.phases.exemplar_stages import BASE, PER_CLASS, Stage


@pytest.fixture(scope="session")
def stage(tmp_path_factory):
    run = RunSettings(run_dir=str(tmp_path_factory.mktemp("run")))
    settings = dataclasses.replace(BASE, run=run)
    experiment = Experiment(settings, load_digits(), tf.distribute.get_strategy())
    phases, directory = experiment.protocol.phases, experiment.directory
    first = experiment.begin_phase(phases[0])
    chosen = np.concatenate(
        [first.training_set.indices_of(label)[:PER_CLASS] for label in range(4)]
    )
    images = first.training_set.subset(chosen)
    ExemplarMemory(images.load_all(), images.labels).save(directory.exemplars(0))
    write_arrays(directory.model(0), first.model.state())
    return Stage(experiment, [first, experiment.begin_phase(phases[1])])


@pytest.fixture
def calls(monkeypatch):
    """What the objective is asked; each pixel is told to grow darker."""
    recorded = []

    def value_and_gradient(self, exemplars, labels, learning, outer, *key):
        recorded.append({"exemplars": exemplars.numpy(), "labels": labels, "key": key, **outer})
        return tf.constant(1.0), tf.ones_like(exemplars)

    monkeypatch.setattr(UnrolledTraining, "value_and_gradient", value_and_gradient)
    return recorded
