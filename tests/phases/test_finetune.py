"""The balanced fine-tune, on digits: which of the classifier's weights it trains."""

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.phases import finetune as finetune_module
from mnemonics_tf.phases.finetune import finetune_model
from mnemonics_tf.run.files import write_arrays
from mnemonics_tf.run.interruption import RunInterruptedError
from mnemonics_tf.settings import RunSettings, Settings

pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The workshop and phase 1 of LUCIR, four classes and then six, none learned yet."""
    settings = Settings(run=RunSettings(run_dir=str(tmp_path_factory.mktemp("run")))).changed(
        method="lucir", base_classes=4, num_phases=1, finetune_epochs=1, weight_decay=0.0
    )
    experiment = Experiment(settings, load_digits(), tf.distribute.get_strategy())
    first = experiment.begin_phase(experiment.protocol.phases[0])
    few = [first.training_set.indices_of(label)[:2] for label in range(4)]
    images = first.training_set.subset(np.concatenate(few))
    memory = ExemplarMemory(images.load_all(), images.labels)
    memory.save(experiment.directory.exemplars(0))
    write_arrays(experiment.directory.model(0), first.model.state())
    return experiment.workshop, experiment.begin_phase(experiment.protocol.phases[1])


def finetuned(place, **values) -> list[bool]:
    """Whether the weights of each class changed."""
    workshop, state = place
    model = state.model
    before = model.classifier.seen_kernel()
    images = state.training_set.subset(np.arange(60))
    workshop = workshop.changed(**values)
    finetune_model(workshop, state.phase, images, model, state.stage("finetune"))
    return np.any(model.classifier.seen_kernel() != before, axis=0).tolist()


def test_all_classes_are_balanced(place):
    """LUCIR's release fine-tunes the weights of old and of new classes alike."""
    assert finetuned(place) == [True] * 10
    assert finetuned(place, finetune_old_classes=False) == [False] * 4 + [True] * 6


def test_what_was_frozen_is_frozen_afterwards(place, monkeypatch):
    _, state = place
    finetuned(place)
    assert state.model.classifier.trained_columns().numpy()[:4].tolist() == [0] * 4

    def interrupted(*arguments):
        assert state.model.classifier.trained_columns().numpy()[:4].tolist() == [1] * 4
        raise RunInterruptedError

    monkeypatch.setattr(finetune_module, "run_epochs", interrupted)
    with pytest.raises(RunInterruptedError):
        finetuned(place)
    assert state.model.classifier.trained_columns().numpy()[:4].tolist() == [0] * 4
