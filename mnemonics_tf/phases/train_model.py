"""The model level of a phase: training on new data and old exemplars, and the fine-tune."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.pipeline import concatenate
from mnemonics_tf.errors import UserError
from mnemonics_tf.methods.base import cross_entropy
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.monitoring.progress import LOGGER, StageProgress
from mnemonics_tf.phases.state import PhaseState, RunContext
from mnemonics_tf.randomness import numpy_generator
from mnemonics_tf.run import workers
from mnemonics_tf.run.data_facts import refuse_other_phase0
from mnemonics_tf.run.files import RunDirectory, read_arrays, write_arrays
from mnemonics_tf.run.results import hash_of
from mnemonics_tf.training.loop import Moment, TrainingLoop
from mnemonics_tf.training.optimization import OptimizationSettings
from mnemonics_tf.training.step import LossParts


def train_model(context: RunContext, state: PhaseState) -> None:
    """Trains Theta_i on D_i and the old exemplars (Eq. 6; Algorithm 1, lines 4 and 8).

    Args:
        context: of the run.
        state: of the phase; its model changes.
    """
    phase, training, method = state.phase, context.settings.training, context.method
    if phase.index == 0 and context.settings.run.phase0_from:
        _take_over_phase0(context, state)
    else:
        epochs = training.base_epochs if phase.index == 0 else training.epochs
        images, held_out = _training_images(context, state)
        if not state.resume:
            method.initialise_new_classes(state.model, phase, _features_of(state))
        settings = _optimization(
            context, epochs, training.learning_rate, training.learning_rate_milestones
        )
        loop = training_loop(
            context, "train", state.model, state.old_model, method.loss_parts, settings
        )
        _run_epochs(context, state, "train", images, loop)
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
    context: RunContext, state: PhaseState, exemplars: ImageSet | None = None
) -> None:
    """Fine-tunes Theta_i on the exemplars only, as many of each class (Algorithm 1, line 18).

    Departure from Algorithm 1: phase 0 is left out unless `finetune_base_phase` is set. The step
    undoes the bias between many new and few old images (Section 4.3), and phase 0 has no old ones;
    there it only replaces all of D_0 by its exemplars.

    Args:
        context: of the run.
        state: of the phase; its model changes.
        exemplars: to fine-tune on instead of those in memory.
    """
    if not finetunes(context, state):
        return
    settings = finetune_settings(context)
    loop = training_loop(context, "finetune", state.model, None, classification_alone, settings)
    images = exemplars or state.memory.as_image_set()
    _run_epochs(context, state, "finetune", images, loop)


def classification_alone(batch, outputs, old_outputs) -> dict:
    """Returns the parts of the loss of a fine-tune: the cross-entropy."""
    del old_outputs
    return {"classification": cross_entropy(batch["label"], outputs.logits)}


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


def training_loop(
    context: RunContext,
    kind: str,
    model: IncrementalModel,
    old_model: IncrementalModel | None,
    loss_parts: LossParts,
    settings: OptimizationSettings,
    plain: bool = False,
) -> TrainingLoop:
    """Returns the run's loop of this kind, at the start of a stage; its graphs serve all phases.

    Args:
        context: of the run, which keeps the loops.
        kind: `train` and the like; loops of one kind have the same loss.
        model: what is trained.
        old_model: the frozen model of the phase before, or None.
        loss_parts: the loss, by part and example.
        settings: of the optimiser.
        plain: in float32 and not compiled, whatever the run's settings.
    """
    # What trains differs with weight transfer; a wider classifier is another variable.
    key = (
        kind,
        id(model),
        id(old_model),
        model.classifier.capacity,
        model.transfer,
        settings.fixed,
    )
    if key not in context.loops:
        context.loops[key] = TrainingLoop(
            model,
            old_model,
            loss_parts,
            settings,
            context.pipeline,
            context.strategy,
            "off" if plain else context.settings.training.mixed_precision,
            context.jit_compile and not plain,
            kind,
            functools.partial(workers.chiefs_number, context.strategy),
        )
    loop = context.loops[key]
    loop.start_stage(settings)
    return loop


def _run_epochs(
    context: RunContext,
    state: PhaseState,
    name: str,
    images: ImageSet,
    loop: TrainingLoop,
) -> None:
    """Trains for the stage's epochs, from where a snapshot left it, with checkpoints."""
    phase, epochs = state.phase.index, loop.settings.epochs
    steps = -(-len(images) // loop.settings.batch_size)
    first_epoch, first_step, totals = 0, 0, None
    if state.resume and state.resume.position:
        first_epoch, first_step = divmod(state.resume.position, steps)
        totals = state.resume.groups["epoch"]["totals"]
        loop.set_state(state.resume.groups["optimizer"])
    start = first_epoch + first_step / steps
    progress = StageProgress(phase, context.protocol.num_phases, name, epochs, start)
    every = context.settings.run.checkpoint_epochs

    def groups(moment: Moment) -> dict[str, dict[str, np.ndarray]]:
        so_far = np.zeros_like(moment.totals) if moment.ends_epoch else moment.totals
        done = np.array(moment.epoch + moment.ends_epoch)
        return {"optimizer": loop.state(), "epoch": {"done": done, "totals": so_far}}

    for moment in loop.run(images, range(first_epoch, epochs), (name, phase), first_step, totals):
        progress.update(moment.epoch + moment.step / steps, moment.figures)
        if moment.ends_epoch:
            state.figures[name] = moment.figures
            tag = f"{name}/phase{phase:02d}"
            context.summaries.scalars(tag, moment.figures, moment.epoch)
        due = bool(every) and moment.ends_epoch and (moment.epoch + 1) % every == 0
        state.save_if_due(
            context.settings.run.checkpoint_minutes,
            due,
            name,
            moment.position,
            functools.partial(groups, moment),
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
    if str(arrays.pop("fingerprint", "")) != _phase0_fingerprint(context):
        raise UserError(
            f"--phase0_from={other.root}: its phase 0 was trained with other settings, data or "
            "class order; leave the flag out to train phase 0 here"
        )
    refuse_other_phase0(context.directory, other)
    # A correction of logits is not part of what runs share: it starts as it is.
    state.model.set_state({**state.model.state(), **arrays}, str(other.base_model))
    LOGGER.info("phase 0 takes the trained model of %s", other.root)
