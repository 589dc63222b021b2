"""The model level of a phase: training on new data and old exemplars, and the fine-tune."""

import dataclasses
from collections.abc import Callable

import numpy as np

from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.pipeline import concatenate
from mnemonics_tf.errors import UserError
from mnemonics_tf.methods.base import cross_entropy
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.progress import LOGGER, StageProgress
from mnemonics_tf.randomness import numpy_generator
from mnemonics_tf.results import hash_of
from mnemonics_tf.run_directory import RunDirectory, read_arrays, write_arrays
from mnemonics_tf.run_integrity import same_base_classes
from mnemonics_tf.run_state import PhaseState, RunContext
from mnemonics_tf.training.loop import LossParts, TrainingLoop
from mnemonics_tf.training.optimization import OptimizationSettings


def train_model(context: RunContext, state: PhaseState, stage: int) -> None:
    """Trains Theta_i on D_i and the old exemplars (Eq. 6; Algorithm 1, lines 4 and 8).

    Args:
        context: of the run.
        state: of the phase; its model changes.
        stage: index of this stage, for checkpoints.
    """
    phase, training, method = state.phase, context.settings.training, context.method
    if phase.index == 0 and context.settings.run.phase0_from:
        _take_over_phase0(context, state)
    else:
        epochs = training.base_epochs if phase.index == 0 else training.epochs
        images, held_out = _training_images(context, state)
        if not state.resume:
            method.initialise_new_classes(state.model, phase, _features_of(state))

        def loss_parts(batch, outputs, old_outputs):
            return method.loss_parts(batch, outputs, old_outputs, phase)

        settings = _optimization(
            context, epochs, training.learning_rate, training.learning_rate_milestones
        )
        loop = _training_loop(context, state.model, state.old_model, loss_parts, settings)
        _run_epochs(context, state, stage, "train", images, loop)
        if held_out:
            logits = state.evaluator.outputs(held_out).logits
            method.after_training(state.model, phase, held_out.labels, logits)
    if phase.index == 0:
        arrays = {**state.model.state(), "fingerprint": np.array(_phase0_fingerprint(context))}
        write_arrays(context.directory.base_model, arrays)


def _training_images(context: RunContext, state: PhaseState) -> tuple[ImageSet, ImageSet | None]:
    """Returns D_i with the old exemplars, and what the method holds out of them, balanced."""
    method, images = context.method, state.training_set
    if not method.keeps_past_data:
        images = concatenate([images, state.memory.as_image_set()])
    count = method.held_out_per_class(state.phase, int(np.bincount(images.labels).min()))
    if not count:
        return images, None
    held_out = np.zeros(len(images), bool)
    for label in state.phase.seen_classes:
        generator = numpy_generator(context.seed, "method held out", state.phase.index, label)
        held_out[generator.permutation(images.indices_of(label))[:count]] = True
    return images.subset(np.flatnonzero(~held_out)), images.subset(np.flatnonzero(held_out))


def _features_of(state: PhaseState) -> Callable[[int], np.ndarray]:
    images = state.training_set
    return lambda label: state.evaluator.outputs(images.subset(images.indices_of(label))).features


def finetune_model(
    context: RunContext, state: PhaseState, stage: int, exemplars: ImageSet | None = None
) -> None:
    """Fine-tunes Theta_i on the exemplars only, as many of each class (Algorithm 1, line 18).

    Departure from Algorithm 1: phase 0 is left out unless `finetune_base_phase` is set. The step
    undoes the bias between many new and few old images (Section 4.3), and phase 0 has no old ones;
    there it only replaces all of D_0 by its exemplars.

    Args:
        context: of the run.
        state: of the phase; its model changes.
        stage: index of this stage, for checkpoints.
        exemplars: to fine-tune on instead of those in memory.
    """
    if not finetunes(context, state):
        return

    def loss_parts(batch, outputs, old_outputs):
        return {"classification": cross_entropy(batch["label"], outputs.logits)}

    settings = finetune_settings(context)
    loop = _training_loop(context, state.model, None, loss_parts, settings)
    images = exemplars or state.memory.as_image_set()
    _run_epochs(context, state, stage, "finetune", images, loop)


def finetune_settings(context: RunContext) -> OptimizationSettings:
    """Returns how the balanced fine-tune goes: at one learning rate from its start to its end."""
    training = context.settings.training
    return _optimization(
        context, training.finetune_epochs, training.finetune_learning_rate, milestones=()
    )


def finetunes(context: RunContext, state: PhaseState) -> bool:
    """Returns whether the balanced fine-tune applies to this phase."""
    training = context.settings.training
    if not training.finetune_epochs or context.method.keeps_past_data:
        return False
    return state.phase.index > 0 or training.finetune_base_phase


def _optimization(
    context: RunContext, epochs: int, learning_rate: float, milestones: tuple[float, ...]
) -> OptimizationSettings:
    training = context.settings.training
    return OptimizationSettings(
        epochs=epochs,
        learning_rate=learning_rate,
        milestones=tuple(max(1, round(share * epochs)) for share in milestones),
        decay=training.learning_rate_decay,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        decay_normalization=training.decay_normalization,
        batch_size=training.batch_size,
    )


def _training_loop(
    context: RunContext,
    model: IncrementalModel,
    old_model: IncrementalModel | None,
    loss_parts: LossParts,
    settings: OptimizationSettings,
) -> TrainingLoop:
    return TrainingLoop(
        model,
        old_model,
        loss_parts,
        settings,
        context.pipeline,
        context.strategy,
        context.settings.training.mixed_precision,
        context.jit_compile,
    )


def _run_epochs(
    context: RunContext,
    state: PhaseState,
    stage: int,
    name: str,
    images: ImageSet,
    loop: TrainingLoop,
) -> None:
    """Trains for the stage's epochs, from where a snapshot left it, with checkpoints."""
    phase, epochs = state.phase.index, loop.settings.epochs
    start = 0
    if state.resume and state.resume.position:
        start = state.resume.position
        loop.set_state(state.resume.groups["optimizer"])
    progress = StageProgress(phase, context.protocol.num_phases, name, epochs, start)
    for epoch in range(start, epochs):
        figures = loop.run_epoch(images, epoch, name, phase)
        state.figures[name] = figures
        progress.update(epoch + 1, figures)
        context.summaries.scalars(f"{name}/phase{phase:02d}", figures, epoch)
        state.save_if_due(
            context.settings.run.checkpoint_minutes,
            context.settings.run.checkpoint_epochs,
            stage,
            epoch + 1,
            lambda: {"optimizer": loop.state()},
        )


def _phase0_fingerprint(context: RunContext) -> str:
    """Returns a hash of everything that touches the model of phase 0 up to its exemplars.

    On how many devices it was trained is not among that, but for rounding.
    """
    training = dataclasses.asdict(context.settings.training)
    architecture = dataclasses.asdict(context.architecture)
    del architecture["corrects_logits"]  # begins with phase 1
    shared = (
        *("base_epochs", "batch_size", "learning_rate", "learning_rate_milestones"),
        *("learning_rate_decay", "momentum", "weight_decay", "decay_normalization"),
    )
    mixed = {name: training[name] for name in ("mixed_precision",) if training[name] != "off"}
    return hash_of(
        {
            "dataset": context.settings.protocol.dataset,
            "classes": context.protocol.order[: context.protocol.base_classes],
            "seed": context.seed,
            "architecture": architecture,
            "training": {name: training[name] for name in shared},
            "devices": 1,  # as earlier versions had it in runs on one device
            **mixed,
        }
    )


def _take_over_phase0(context: RunContext, state: PhaseState) -> None:
    other = RunDirectory(context.settings.run.phase0_from)
    arrays = read_arrays(other.base_model)
    same_settings = str(arrays.pop("fingerprint", "")) == _phase0_fingerprint(context)
    if not same_settings or not same_base_classes(context.directory, other):
        raise UserError(
            f"--phase0_from={other.root}: its phase 0 was trained with other settings, data or "
            "class order; leave the flag out to train phase 0 here"
        )
    # A correction of logits is not part of what runs share: it starts as it is.
    state.model.set_state({**state.model.state(), **arrays}, str(other.base_model))
    LOGGER.info("phase 0 takes the trained model of %s", other.root)
