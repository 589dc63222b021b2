"""The rehearsal of a next phase, on digits: what trains on what, and what its score tells."""

import dataclasses
import logging
import pathlib
import types

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.phases import rehearsal as rehearsal_module
from mnemonics_tf.phases.judge import Judge, told_one_by_one
from mnemonics_tf.phases.learning import companions
from mnemonics_tf.phases.rehearsal import rehearsal, rehearsed
from mnemonics_tf.run.interruption import RunInterruptedError, StopRequest
from mnemonics_tf.settings import ProtocolSettings, RunSettings, Settings

PER_CLASS = 5


@dataclasses.dataclass(frozen=True)
class Place:
    """Phase 0 of five classes, none learned yet, and exemplars: real ones, or noise."""

    workshop: object
    state: object
    memory: ExemplarMemory
    noise: ExemplarMemory

    def score(self, **values):
        workshop = self.workshop.changed(**values)
        state, images = self.state, self.state.training_set
        first = np.array([images.indices_of(k)[0] for k in range(5)])
        rest = np.setdiff1d(np.arange(len(images)), first)
        return rehearsal(
            workshop,
            state.phase,
            images.subset(rest),
            images.subset(first),
            state.model,
            state.stage("exemplars"),
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    settings = Settings(
        run=RunSettings(run_dir=str(tmp_path_factory.mktemp("run"))),
        protocol=ProtocolSettings(base_classes=5, num_phases=1),
    ).changed(epochs=8, batch_size=32, finetune_epochs=4, depth=8, rehearsal_steps=80)
    experiment = Experiment(settings, load_digits(), tf.distribute.get_strategy())
    state = experiment.begin_phase(experiment.protocol.phases[0])
    images = state.training_set
    rows = np.concatenate([images.indices_of(k)[1 : 1 + PER_CLASS] for k in range(5)])
    real = images.subset(rows).load_all()
    noise = np.random.default_rng(0).integers(0, 256, real.shape, np.uint8)
    labels = images.labels[rows]
    memories = (ExemplarMemory(pixels, labels) for pixels in (real, noise))
    return Place(experiment.workshop, state, *memories)


@pytest.mark.parametrize(
    ("new", "again"),
    [(range(5), range(3, 5)), (range(4, 10), range(7, 10)), (range(4, 6), range(5, 6))],
)
def test_the_last_half_of_the_new_classes_is_new_again(new, again):
    phase = rehearsed(Phase(3, new, range(new.stop)))
    assert phase == Phase(4, again, range(new.stop))


def test_one_new_class_can_not_be_rehearsed():
    assert rehearsed(Phase(3, range(7, 8), range(8))) is None


@pytest.fixture
def trained(monkeypatch):
    """What would be trained and fine-tuned, without its being done."""
    calls = {}

    def train_model(workshop, method, phase, images, memory, model, old_model, stage):
        state = {name: values.copy() for name, values in model.state().items()}
        learns = (model.transfer, np.flatnonzero(model.classifier.trained_columns()).tolist())
        calls["train"] = (workshop, phase, images, memory, old_model, state, learns)

    def finetune_model(workshop, phase, exemplars, model, stage):
        calls["finetune"] = (phase, exemplars.labels.tolist(), stage.name)

    monkeypatch.setattr(rehearsal_module, "train_model", train_model)
    monkeypatch.setattr(rehearsal_module, "finetune_model", finetune_model)
    return calls


def test_exemplars_that_leave_nothing_to_train_on_are_worth_nothing(place, trained):
    """Fewer may fit once they have learned; BiC holds out one at least of each class."""
    assert place.score(method="bic")(place.memory.trimmed(1)) == 0.0
    assert not trained


def test_it_is_the_next_phase_with_classes_that_are_known(place, trained):
    place.score()(place.memory)
    _, phase, images, memory, teacher, student, _ = trained["train"]
    assert phase == Phase(1, range(3, 5), range(5))
    assert set(images.labels.tolist()) == {3, 4}
    assert memory.labels.tolist() == np.repeat(range(3), PER_CLASS).tolist()
    assert teacher.num_classes == 3
    theta = place.state.model.state()
    kernel = student["classifier/kernel"]
    np.testing.assert_array_equal(kernel[:, :3], theta["classifier/kernel"][:, :3])
    assert np.all(np.abs(kernel[:, 3:] - theta["classifier/kernel"][:, 3:]).max(axis=0) > 0.01)
    assert trained["finetune"][1] == place.memory.labels.tolist()


@pytest.mark.parametrize("method", ["lwf", "lucir"])
@pytest.mark.parametrize("transfer", [False, True])
def test_it_trains_the_weights_that_the_run_trains(place, trained, method, transfer):
    anew = dataclasses.replace(place, workshop=dataclasses.replace(place.workshop, kept={}))
    anew.score(method=method, weight_transfer=transfer)(place.memory)
    classes = [3, 4] if method == "lucir" else [0, 1, 2, 3, 4]
    assert trained["train"][-1] == (transfer, classes)


@pytest.mark.parametrize(
    ("wanted", "epochs"),
    [
        (3.2, 3),
        (0.01, 1),
        (90, 8),  # no more than a phase
    ],
)
@pytest.mark.parametrize("replayed", [0, 2])
def test_its_length(place, trained, wanted, epochs, replayed):
    counts = np.bincount(place.state.training_set.labels)
    images = counts[3] + counts[4] - 2 + 3 * (replayed or PER_CLASS)  # two of them score
    steps = round(wanted * -(-images // 32))
    place.score(rehearsal_steps=max(1, steps), replay_per_class=replayed)(place.memory)
    assert trained["train"][0].settings.training.epochs == epochs


def test_what_a_run_leaves_out_is_left_out(place, trained):
    place.score(finetune_epochs=0)(place.memory)
    assert set(trained) == {"train"}


@pytest.mark.slow
def test_it_prefers_real_exemplars_and_leaves_no_trace(place):
    before, score = place.state.model.state(), place.score()
    run_dir = pathlib.Path(place.workshop.settings.run.run_dir)
    files = sorted(run_dir.rglob("*"))
    real, noise, again = (score(m) for m in (place.memory, place.noise, place.memory))
    assert real == again
    assert real > noise
    for name, values in place.state.model.state().items():
        np.testing.assert_array_equal(values, before[name])
    assert place.state.metrics == {}
    assert sorted(run_dir.rglob("*")) == files


def test_a_stop_gives_it_up(place, monkeypatch):
    stage = place.state.stage("exemplars").unrecorded("rehearsal")
    stage.save_if_due(1, 1, 1, dict)  # nothing is due
    monkeypatch.setattr(StopRequest, "agreed", lambda self: True)
    with pytest.raises(RunInterruptedError):
        stage.save_if_due(0, 0, 1, dict)
    assert place.state.checkpoints.latest() is None


def test_who_stops_within_one_finds_the_steps_before_it_saved(place, monkeypatch):
    def given_up(images):
        monkeypatch.setattr(StopRequest, "agreed", lambda self: True)
        raise RunInterruptedError

    state = place.state
    told = companions(place.workshop, state.stage("exemplars"), 10, 1, Judge(given_up))
    told.save(5, lambda: {"images": np.ones(3)})
    assert state.checkpoints.latest() is None  # nothing was due
    with pytest.raises(RunInterruptedError):
        told.validate(np.ones(3))
    snapshot = state.checkpoints.latest()
    assert (snapshot.stage, snapshot.position) == ("exemplars", 5)
    np.testing.assert_array_equal(snapshot.groups["learning"]["images"], np.ones(3))


@pytest.mark.parametrize(
    ("done", "lines"),
    [(None, ["1 of 4", "2 of 4"]), (1, ["2 of 4", "3 of 4"]), (2, ["3 of 4", "4 of 4"])],
)
def test_it_tells_which_of_how_many_it_was(caplog, done, lines):
    """Steps 0, 5, 10 and 12 are scored; a run goes on after those that are done."""
    workshop = types.SimpleNamespace(
        settings=Settings().changed(outer_steps=12, validation_every=5)
    )
    scored = {"learning": {"validations": np.zeros([done or 0, 2])}}
    resumed = None if done is None else types.SimpleNamespace(groups=scored)
    new = types.SimpleNamespace(workshop=workshop, stage=types.SimpleNamespace(resumed=resumed))
    with caplog.at_level(logging.INFO, "mnemonics_tf"):
        told = told_one_by_one(lambda memory: 0.25 + memory, new)
        assert [told(0.25), told(0.5)] == [0.5, 0.75]
    for message, line, accuracy in zip(caplog.messages, lines, (0.5, 0.75), strict=True):
        assert f"rehearsal {line}: accuracy {accuracy:.3f} on held-out images, in" in message
