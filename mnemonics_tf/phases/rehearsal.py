"""A rehearsal of the next phase: learned exemplars judged by the training that will see them."""

from collections.abc import Callable

import numpy as np

from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.evaluation.metrics import mean_class_accuracy
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.methods import METHODS
from mnemonics_tf.methods.base import Method
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.phases.evaluate import predict
from mnemonics_tf.phases.finetune import finetune_model, finetunes
from mnemonics_tf.phases.state import Stage
from mnemonics_tf.phases.train_model import train_model
from mnemonics_tf.phases.workshop import Workshop
from mnemonics_tf.registry import find
from mnemonics_tf.settings import TrainingSettings


def rehearsed(phase: Phase) -> Phase | None:
    """Returns the phase after `phase` as it is rehearsed: half of the new classes are new again.

    Args:
        phase: with its new classes.

    Returns:
        None where there is one new class: its exemplars would not be seen.
    """
    again = phase.num_new // 2
    if not again:
        return None
    start = phase.num_seen - again
    return Phase(phase.index + 1, range(start, phase.num_seen), phase.seen_classes)


def leaves_some(
    training: TrainingSettings, following: Phase, images: ImageSet, labels: np.ndarray
) -> bool:
    """Whether the run's method, which may hold images out, has some of each class to train on.

    Args:
        training: how the model is trained.
        following: the phase as it is rehearsed.
        images: D_i, without what is held out to judge by.
        labels: of the exemplars of all classes.
    """
    old = labels[labels < following.num_old]
    new = images.labels[images.labels >= following.num_old]
    smallest = int(np.bincount(np.concatenate([old, new]), minlength=following.num_seen).min())
    method = find(METHODS, training.method, "method")(training)
    return method.held_out_per_class(following, smallest) < smallest


def rehearsal(
    workshop: Workshop,
    phase: Phase,
    images: ImageSet,
    held_out: ImageSet,
    model: IncrementalModel,
    stage: Stage,
) -> Callable[[ExemplarMemory], float]:
    """Returns the score of a memory: what a rehearsal of the next phase makes of it.

    A copy of Theta_i forgets the last half of the phase's classes and is taught them again, from
    their images and the exemplars of all other classes: by the run's method, with weight transfer
    and a fine-tune on all exemplars if the run has them. The score is the accuracy on held-out
    images of the phase's classes, in the mean over classes, by the head that the method predicts
    with.

    The paper has no such choice (this project's addition): its exemplars are made for the features
    of Theta_i, and a score on those same features can't see how they fare when the features change.
    It is an estimate: Theta_i has learned the classes before that are new to its copy.

    Args:
        workshop: of the run.
        phase: which; with two new classes or more.
        images: D_i, without what is held out.
        held_out: images of the new classes.
        model: Theta_i; read only.
        stage: of exemplar learning, beside which it is rehearsed.
    """
    settings = workshop.settings
    method = find(METHODS, settings.training.method, "method")(settings.training)
    following = rehearsed(phase)
    assert following, "the caller has looked"
    new = images.subset(np.flatnonzero(images.labels >= following.num_old))
    student = workshop.copy_of(model, "rehearsal")
    teacher = workshop.copy_of(model, "rehearsal, old model")
    if method.freezes_old_classes:
        student.classifier.freeze_old()

    def score(memory: ExemplarMemory) -> float:
        if not leaves_some(settings.training, following, images, memory.labels):
            return 0.0  # fewer fit than before: the next phase could not train on them
        old = memory.of_first_classes(following.num_old)
        short = _shortened(workshop, len(new), old)
        _forget(student, model, following)
        teacher.copy_from(student)
        _begin(student, following, settings.model.weight_transfer)
        beside = stage.unrecorded("rehearsal")
        train_model(short, method, following, new, old, student, teacher, beside)
        if finetunes(settings.training, method, following):
            beside = stage.unrecorded("rehearsal finetune")
            finetune_model(short, following, memory.as_image_set(), student, beside)
        return _accuracy(workshop, method, following, memory, held_out, student)

    return score


def _shortened(workshop: Workshop, num_new: int, old: ExemplarMemory) -> Workshop:
    """Returns the workshop with as many epochs as make the steps of a rehearsal.

    Args:
        workshop: of the run.
        num_new: how many images of new classes there are.
        old: the exemplars beside them.
    """
    training, wanted = workshop.settings.training, workshop.settings.validation
    by_class = np.bincount(old.labels)
    replayed = np.minimum(by_class, training.replay_per_class or by_class.max()).sum()
    steps = -(-(num_new + replayed) // training.batch_size)
    epochs = int(np.clip(round(wanted.rehearsal_steps / steps), 1, max(1, training.epochs)))
    return workshop.changed(epochs=epochs)


def _forget(student: IncrementalModel, model: IncrementalModel, following: Phase) -> None:
    """Makes the student Theta_i without the classes that are new again."""
    student.copy_from(model)
    student.set_classes(following.num_old, 0)


def _begin(student: IncrementalModel, following: Phase, transfer: bool) -> None:
    """Lets the student begin the phase, as a run's model does."""
    student.grow(following.num_new)
    student.set_transfer(transfer)


def _accuracy(
    workshop: Workshop,
    method: Method,
    following: Phase,
    memory: ExemplarMemory,
    held_out: ImageSet,
    student: IncrementalModel,
) -> float:
    """Returns the accuracy on held-out images, in the mean over their classes."""
    evaluator = workshop.evaluator(student)
    predictions = predict(evaluator, following, memory, held_out)[0]
    return mean_class_accuracy(held_out.labels, predictions.heads[method.prediction_head])
