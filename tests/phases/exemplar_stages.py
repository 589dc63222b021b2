"""The exemplar level of an untrained run on real digits."""

import dataclasses

import tensorflow as tf

from mnemonics_tf.experiment import Experiment
from mnemonics_tf.phases import judge
from mnemonics_tf.phases.adjust_exemplars import adjust_exemplars
from mnemonics_tf.phases.make_exemplars import make_exemplars
from mnemonics_tf.settings import (
    ExemplarSettings,
    ProtocolSettings,
    Settings,
)

PER_CLASS = 3
BASE = Settings(
    protocol=ProtocolSettings(base_classes=4, num_phases=2),
    exemplar=ExemplarSettings(exemplars="mnemonics", exemplars_per_class=PER_CLASS),
).changed(
    mnemonics_start="random",
    inner_steps=2,
    outer_steps=2,
    outer_learning_rate=0.1,
    max_shift=255.0,
    outer_batch_size=1000,
    exemplars_per_step=0,
    adjust_old_exemplars=True,
    adjust_steps=4,
    adjust_learning_rate=0.1,
    validation_every=1,
)


@dataclasses.dataclass(frozen=True)
class Stage:
    """An untrained run at the exemplar level of phases 0 and 1."""

    experiment: Experiment
    states: list

    def enter(self, phase: int, **values):
        """Returns workshop and state of a phase that nothing has touched yet."""
        settings = dataclasses.replace(BASE, run=self.experiment.settings.run).changed(**values)
        workshop = dataclasses.replace(self.experiment.workshop, settings=settings)
        return workshop, dataclasses.replace(self.states[phase], metrics={})

    def after_new_exemplars(self, **values):
        """Returns phase 1 with E_1 in the memory, chosen at random."""
        workshop, state = self.enter(1, **({"exemplars": "random"} | values))
        make(workshop, state)
        return workshop, state


def make(workshop, state):
    """Makes the new exemplars and keeps them, as a run does."""
    stage, images = state.stage("exemplars"), state.training_set
    made = make_exemplars(workshop, state.phase, images, state.memory, state.model, stage)
    state.memory = made.memory
    if made.metrics:
        stage.note(made.metrics)


def adjust(workshop, state):
    """Adjusts the old exemplars and keeps them, as a run does."""
    stage = state.stage("adjust")
    adjusted = adjust_exemplars(workshop, state.phase, state.memory, state.model, stage)
    state.memory = adjusted[0]
    if adjusted[1]:
        stage.note(adjusted[1])


def pixels(workshop, images) -> list[bytes]:
    """Normalised images as something that can be looked up."""
    stored = workshop.pipeline.normalization.to_uint8(tf.constant(images)).numpy()
    return [image.tobytes() for image in stored]


def training_images(state):
    """The phase's images, each with its label."""
    return zip(state.training_set.load_all(), state.training_set.labels, strict=True)


def rehearsed_as(monkeypatch, scores):
    """Rehearsals that end with these scores; returns the memories they were asked of."""
    memories, left = [], iter(scores)

    def rehearsal(*arguments):
        return lambda memory: memories.append(memory) or next(left)

    monkeypatch.setattr(judge, "rehearsal", rehearsal)
    return memories
