"""Model-level training of a phase: new data and old exemplars (Algorithm 1, lines 4 and 8)."""

import functools
from collections.abc import Sequence

import numpy as np

from mnemonics_tf.data.draw import Draw, epoch_size, replayed
from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.pipeline import concatenate
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.methods import BUILT_IN
from mnemonics_tf.methods.base import Method
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.phases.coded_share import partly_coded
from mnemonics_tf.phases.state import Stage
from mnemonics_tf.phases.workshop import Workshop
from mnemonics_tf.randomness import some_of_each
from mnemonics_tf.settings import TrainingSettings
from mnemonics_tf.training.loop import Moment, TrainingLoop


def train_model(
    workshop: Workshop,
    method: Method,
    phase: Phase,
    images: ImageSet,
    memory: ExemplarMemory,
    model: IncrementalModel,
    old_model: IncrementalModel | None,
    stage: Stage,
) -> dict[str, float]:
    """Trains Theta_i on D_i and the old exemplars (Eq. 6).

    Args:
        workshop: of the run.
        method: how the model learns.
        phase: which.
        images: D_i.
        memory: the old exemplars.
        model: Theta_i, which changes.
        old_model: Theta_{i-1}, frozen; None in phase 0.
        stage: resumes, shows and saves.

    Returns:
        Loss, its parts and accuracy of the last epoch.
    """
    training, evaluator = workshop.settings.training, workshop.evaluator(model)
    epochs, before = training.base_epochs, 0
    if phase.index > 0:
        epochs, before = training.epochs, epochs + (phase.index - 1) * training.epochs
    trained_on, held_out, draw = _training_images(workshop, method, phase, images, memory)
    if not stage.resumed:
        features = functools.partial(_features, workshop, model, images)
        method.initialise_new_classes(model, phase, features)
    settings = workshop.optimization(
        epochs, training.learning_rate, training.learning_rate_milestones
    )
    loop = workshop.training_loop("train", model, old_model, method.loss_parts, settings)
    metrics = run_epochs(workshop, phase, trained_on, loop, stage, before, draw)
    if held_out:
        logits = evaluator.outputs(held_out).logits
        method.after_training(model, phase, held_out.labels, logits)
    return metrics


def _training_images(
    workshop: Workshop, method: Method, phase: Phase, images: ImageSet, memory: ExemplarMemory
) -> tuple[ImageSet, ImageSet | None, Draw | None]:
    """Returns D_i with the old exemplars, what is held out of them, and which an epoch sees.

    What a method holds out is as much of each class.
    """
    num_new, training = len(images), workshop.settings.training
    if not method.keeps_past_data:
        images = partly_coded(workshop, phase, images, memory)
        images = concatenate([images, memory.as_image_set()])
    smallest = int(np.bincount(images.labels).min())
    check_held_out(training, method, phase, smallest, [])
    count = method.held_out_per_class(phase, smallest)
    counts = dict.fromkeys(phase.seen_classes, count) if count else {}
    held_out = some_of_each(images.labels, counts, workshop.seed, "method held out", phase.index)
    left = np.flatnonzero(~held_out)
    draw = replayed(images.labels[left], left >= num_new, training.replay_per_class)
    if not count:
        return images, None, draw
    return images.subset(left), images.subset(np.flatnonzero(held_out)), draw


def check_held_out(
    training: TrainingSettings,
    method: Method,
    phase: Phase,
    smallest: int,
    ways: Sequence[str],
    begun: bool = False,
) -> None:
    """Refuses a method that would hold all images of a class out of training.

    Args:
        training: how the model is trained.
        method: which.
        phase: that is to be trained.
        smallest: how many images the smallest class has.
        ways: advice to keep more exemplars, if that would help.
        begun: whether the run has begun, so that only another one can have other settings.

    Raises:
        UserError: if so many are held out.
    """
    held_out = method.held_out_per_class(phase, smallest)
    if not held_out or held_out < smallest:
        return
    ways = list(ways)
    if smallest > 1 and training.method in BUILT_IN:  # of a single one no share is small enough
        ways.append("lower --correction_share")
    raise UserError(
        f"--method={training.method} holds out {held_out} images of each class from training, but "
        f"in phase {phase.index} a class has no more than {smallest}: "
        f"{'in another run: ' * begun}"
        f"{' or '.join(ways) or 'give it more images, or pass another --method'}"
    )


def _features(
    workshop: Workshop, model: IncrementalModel, images: ImageSet, label: int
) -> np.ndarray:
    members = images.subset(images.indices_of(label))
    return workshop.evaluator(model).features(members)


def run_epochs(
    workshop: Workshop,
    phase: Phase,
    images: ImageSet,
    loop: TrainingLoop,
    stage: Stage,
    before: int,
    draw: Draw | None = None,
) -> dict[str, float]:
    """Trains for the loop's epochs, from where a checkpoint left it; returns the last's metrics.

    Args:
        workshop: of the run.
        phase: which.
        images: to train on.
        loop: at the start of the stage.
        stage: resumes, shows and saves.
        before: how many epochs the stage had in all earlier phases.
        draw: which images each epoch sees; None: all.
    """
    epochs = loop.settings.epochs
    steps = -(-epoch_size(images, draw) // loop.settings.batch_size)
    first_epoch, first_step, totals = 0, 0, None
    if resumed := stage.resumed:
        first_epoch, first_step = divmod(resumed.position, steps)
        totals = resumed.groups["epoch"]["totals"]
        loop.set_state(resumed.groups.get("optimizer", {}))  # without momentum there is none
    start = first_epoch + first_step / steps
    progress = stage.progress(epochs, start)
    key = (stage.name, phase.index)

    def groups(moment: Moment) -> dict[str, dict[str, np.ndarray]]:
        so_far = np.zeros_like(moment.totals) if moment.ends_epoch else moment.totals
        done = np.array(moment.epoch + moment.ends_epoch)
        return {"optimizer": loop.state(), "epoch": {"done": done, "totals": so_far}}

    every = workshop.settings.run.checkpoint_epochs
    for moment in loop.run(images, range(first_epoch, epochs), key, first_step, totals, draw):
        progress.update(moment.epoch + moment.step / steps, moment.metrics)
        if moment.ends_epoch:
            stage.note(moment.metrics)
            trained = moment.epoch + 1
            stage.epoch_done(trained / epochs, progress.spent(), (trained - start) / epochs)
            stage.show(moment.metrics, moment.epoch, before)
        done = (moment.epoch + 1) * moment.ends_epoch
        stage.save_if_due(every, done, moment.position, functools.partial(groups, moment))
    return stage.noted
