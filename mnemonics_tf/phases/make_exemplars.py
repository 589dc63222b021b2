"""The exemplar level of a phase: choose, train and adjust exemplars (Algorithm 1, lines 10-17)."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from mnemonics_tf.bilevel.cost import check_memory
from mnemonics_tf.bilevel.learner import (
    Companions,
    ExemplarLearner,
    Exemplars,
    LearningSettings,
    OuterData,
)
from mnemonics_tf.bilevel.outer_optimizer import OuterSettings
from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.pipeline import concatenate
from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluation.evaluator import Evaluator
from mnemonics_tf.evaluation.probe import probe_accuracy
from mnemonics_tf.exemplars.memory import Budget, ExemplarMemory
from mnemonics_tf.exemplars.selection import NEED_FEATURES, SELECTIONS
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.monitoring import diagnostics
from mnemonics_tf.monitoring.progress import LOGGER, StageProgress
from mnemonics_tf.phases.pool import copy_of, drifted_copies
from mnemonics_tf.phases.replicated import ReplicatedTemporaryModel
from mnemonics_tf.phases.state import PhaseState, RunContext
from mnemonics_tf.phases.temporary_model import (
    BaseLevelSettings,
    TemporaryModel,
    TemporaryModelPool,
)
from mnemonics_tf.randomness import numpy_generator
from mnemonics_tf.settings import MnemonicsSettings, Settings

#: values of --exemplars: the selections, and learning from one of them
EXEMPLARS = (*SELECTIONS, "mnemonics")

#: grey levels; exemplars that move less on average have learned nothing that is left in uint8
_VISIBLE = 0.1


def make_budget(settings: Settings) -> Budget:
    """Returns the memory's budget that settings ask for."""
    if settings.exemplar.exemplars_total:
        return Budget(total=settings.exemplar.exemplars_total)
    return Budget(per_class=settings.exemplar.exemplars_per_class)


def make_new_exemplars(context: RunContext, state: PhaseState) -> Exemplars | None:
    """Makes E_i from D_i: selection, then learning where asked for (lines 10, 11).

    Args:
        context: of the run.
        state: of the phase; its memory gets the new classes' exemplars.

    Returns:
        The exemplars that learned, and those beside them, before rounding; None if none learned.
    """
    wanted = context.settings.exemplar
    quota = make_budget(context.settings).quota(state.phase.num_seen)
    learned = wanted.exemplars == "mnemonics"
    held_out, candidates = _hold_out(context, state, quota if learned else None)
    selection = context.settings.mnemonics.mnemonics_start if learned else wanted.exemplars
    chosen = candidates.subset(select(context, state, candidates, selection, quota))
    memory = state.memory.extended(chosen.load_all(), chosen.labels)
    if not learned:
        state.memory = memory
        return None
    state.memory, unrounded = _train_new(context, state, memory, candidates, held_out)
    return unrounded


def adjust_old_exemplars(context: RunContext, state: PhaseState) -> None:
    """Adjusts the exemplars of old classes to Theta_i (Eq. 10; lines 12-16).

    Args:
        context: of the run.
        state: of the phase; its memory's old exemplars change.

    Raises:
        UserError: if a class has fewer exemplars than there are subsets and that is not allowed.
    """
    wanted, phase = context.settings.mnemonics, state.phase
    if not wanted.adjust_old_exemplars or phase.index == 0:
        return
    memory = state.memory
    old = memory.labels < phase.num_old
    fewest = int(np.bincount(memory.labels[old], minlength=phase.num_old).min())
    check_adjustment(wanted, fewest)
    if fewest < wanted.adjust_subsets:
        LOGGER.warning(
            "adjustment left out: a class has %d exemplars for %d subsets",
            fewest,
            wanted.adjust_subsets,
        )
        return
    # Old exemplars alone, as Eq. 10 has it: with E_i beside them, adjusting cost more accuracy.
    rows = np.flatnonzero(old)
    exemplars = _as_exemplars(context, memory, rows, old)
    outer = _outer_settings(wanted, wanted.adjust_learning_rate, wanted.adjust_steps)
    learner = _learner(context, state.model, [], outer, len(rows))
    companions = _companions(context, state, "adjust", outer.steps)
    course = learner.adjust_old(exemplars, wanted.adjust_subsets, companions, "adjust", phase.index)
    state.memory = _with_learned(context, memory, rows, exemplars)
    change = diagnostics.measure_change(state, memory, state.memory, old)
    state.figures["adjust"] = figures = diagnostics.figures(course, change)
    if figures["pixel_distance"] < _VISIBLE:
        LOGGER.warning(
            "adjustment moved exemplars by %.4f grey levels on average: rounding takes away what "
            "is less than half a level; raise --adjust_learning_rate or --adjust_steps",
            figures["pixel_distance"],
        )
    diagnostics.show(context.summaries, "adjust", phase.index, course, change)


def check_adjustment(wanted: MnemonicsSettings, exemplars_per_class: int) -> None:
    """Refuses an adjustment that has too few exemplars to split and that may not be left out.

    Args:
        wanted: how exemplars are to be adjusted.
        exemplars_per_class: how many the smallest old class has.

    Raises:
        UserError: if they are fewer than the subsets.
    """
    enough = exemplars_per_class >= wanted.adjust_subsets
    if enough or not wanted.adjust_old_exemplars or wanted.skip_adjustment_if_too_few:
        return
    raise UserError(
        f"adjusting old exemplars splits each class into {wanted.adjust_subsets} subsets, but "
        f"a class has {exemplars_per_class} exemplars: keep more exemplars, lower "
        "--adjust_subsets, or pass --skip_adjustment_if_too_few or --noadjust_old_exemplars"
    )


def trim_memory(context: RunContext, state: PhaseState) -> None:
    """Lets classes give up what the budget takes from them (line 17)."""
    quota = make_budget(context.settings).quota(state.phase.num_seen)
    state.memory = state.memory.trimmed(quota)


def select(
    context: RunContext, state: PhaseState, images: ImageSet, selection: str, quota: int
) -> np.ndarray:
    """Returns indices into `images`: at most `quota` a new class, best first within a class."""
    chosen = []
    for label in state.phase.new_classes:
        members = images.indices_of(label)
        features = np.empty((len(members), 0))
        if selection in NEED_FEATURES:
            features = state.evaluator.outputs(images.subset(members)).features
        generator = numpy_generator(context.exemplar_seed, "exemplars", label)
        count = min(quota, len(members))  # a small class is kept whole
        chosen.append(members[SELECTIONS[selection](features, count, generator)])
    return np.concatenate(chosen)


def _hold_out(
    context: RunContext, state: PhaseState, quota: int | None
) -> tuple[ImageSet | None, ImageSet]:
    """Returns training images set aside to judge learned exemplars by, and the rest.

    Without a quota (nothing is learned) all images remain candidates.
    """
    share = context.settings.mnemonics.validation_share
    images = state.training_set
    if quota is None or not share:
        return None, images
    held_out = np.zeros(len(images), bool)
    for label in state.phase.new_classes:
        members = images.indices_of(label)
        # Never so many that too few candidates remain.
        count = max(0, min(round(share * len(members)), len(members) - quota))
        generator = numpy_generator(context.exemplar_seed, "held out", label)
        held_out[generator.permutation(members)[:count]] = True
    if not held_out.any():
        return None, images
    return images.subset(np.flatnonzero(held_out)), images.subset(np.flatnonzero(~held_out))


def _train_new(
    context: RunContext,
    state: PhaseState,
    memory: ExemplarMemory,
    candidates: ImageSet,
    held_out: ImageSet | None,
) -> tuple[ExemplarMemory, Exemplars]:
    """Trains E_i on D_i (Eq. 8, 9); returns the memory with it, and it before rounding.

    E_i and D_i are alone in it, as Eq. 7 has them. With `train_beside_old` the old exemplars stand
    in the inner batches and beside D_i in the outer ones, and do not learn: that is Problem 4b.
    """
    wanted, phase = context.settings.mnemonics, state.phase
    new = memory.labels >= phase.num_old
    rows = np.arange(len(memory)) if wanted.train_beside_old else np.flatnonzero(new)
    exemplars = _as_exemplars(context, memory, rows, new)
    outer = _outer_settings(wanted, wanted.outer_learning_rate, wanted.outer_steps)
    old = memory.as_image_set().subset(rows[~new[rows]])
    model, members = state.model, []
    if wanted.inner_start == "pool":
        quota = int(np.sum(new)) // phase.num_new
        model = copy_of(context, state.model)
        members = drifted_copies(context, state, model, candidates, old, quota, wanted.pool_size)
    outer_data = _outer_data(context, state, model, members, concatenate([candidates, old]))
    learner = _learner(context, model, members, outer, len(rows))
    validate = _validation(state, exemplars, held_out)
    companions = _companions(context, state, "exemplars", outer.steps, validate)
    course = learner.train_new(exemplars, outer_data, companions, "exemplars", phase.index)
    learned = _with_learned(context, memory, rows, exemplars)
    change = diagnostics.measure_change(state, memory, learned, new)
    figures = diagnostics.figures(course, change)
    if validate:
        rounded = context.pipeline.normalization.normalize(learned.images[rows]).numpy()
        figures["held_out_accuracy"] = {
            "start": course.validations[0][1],
            "float": validate(exemplars.images),
            "uint8": validate(rounded),
        }
    margins_herding = None
    if wanted.mnemonics_start != "herding":
        quota = int(np.sum(new)) // phase.num_new
        herded = candidates.subset(select(context, state, candidates, "herding", quota))
        margins_herding = diagnostics.feature_margins(state, herded)
        figures["margin_herding"] = float(margins_herding.mean())
    diagnostics.show(context.summaries, "exemplars", phase.index, course, change, margins_herding)
    state.figures["exemplars"] = figures
    return learned, exemplars


def _outer_data(
    context: RunContext,
    state: PhaseState,
    model: IncrementalModel,
    members: Sequence[dict[str, np.ndarray]],
    images: ImageSet,
) -> OuterData:
    """Returns D_i for the outer loss: its features, computed once, where only they are needed.

    Args:
        context: of the run.
        state: of the phase.
        model: takes on the weights of the members; Theta_i itself where there are none.
        members: of the pool.
        images: D_i, and the old exemplars where they stand beside it.
    """
    wanted = context.settings.mnemonics
    if wanted.inner_scope == "classifier":
        if members:
            features = np.stack(_features(context, model, members, images), axis=1)
        else:
            features = state.evaluator.outputs(images).features[:, None]

        def load(rows):
            return {"feature": tf.constant(features[rows])}
    else:

        def load(rows):
            pixels = images.subset(rows).load_all()
            return {"image": context.pipeline.normalization.normalize(pixels)}

    return OuterData(images.labels, load, wanted.outer_batch_size, context.exemplar_seed)


def _features(
    context: RunContext,
    model: IncrementalModel,
    members: Sequence[dict[str, np.ndarray]],
    images: ImageSet,
) -> list[np.ndarray]:
    """Returns the images' features, `[n, d]`, by each member of a pool."""
    key = ("evaluator", id(model))
    if key not in context.temporary_models:
        size = context.settings.training.evaluation_batch_size
        context.temporary_models[key] = Evaluator(model, context.pipeline, size, context.strategy)
    features = []
    for member in members:
        model.set_state(member)
        features.append(context.temporary_models[key].outputs(images).features)
    return features


def _outer_settings(wanted: MnemonicsSettings, learning_rate: float, steps: int) -> OuterSettings:
    return OuterSettings(
        wanted.outer_optimizer, learning_rate, wanted.outer_momentum, wanted.outer_halvings, steps
    )


def _learner(
    context: RunContext,
    model: IncrementalModel,
    members: Sequence[dict[str, np.ndarray]],
    outer: OuterSettings,
    num_rows: int,
) -> ExemplarLearner:
    """Returns a learner around a model whose weights take turns; a step that can't fit is refused.

    Args:
        context: of the run, which keeps the temporary model: its graphs serve all phases.
        model: Theta_i, or the copy that the pool's members use.
        members: of the pool; empty for Theta_i alone.
        outer: of the meta level's optimiser.
        num_rows: how many exemplars there are.
    """
    wanted, pipeline = context.settings.mnemonics, context.pipeline
    base = BaseLevelSettings(
        scope=wanted.inner_scope,
        estimator=wanted.meta_gradient,
        truncated_steps=wanted.truncated_steps,
        start=wanted.inner_start,
        steps=wanted.inner_steps,
        learning_rate=wanted.inner_learning_rate,
        momentum=wanted.inner_momentum,
        batch_size=wanted.inner_batch_size,
        batch_statistics=wanted.inner_batch_statistics,
        augment=wanted.inner_augmentation,
        gradient_scale=wanted.gradient_scale,
        jit_compile=context.jit_compile_exemplars,
    )
    per_step = min(wanted.exemplars_per_step or num_rows, num_rows)
    check_memory(model.backbone, base, per_step, wanted.outer_batch_size)
    normalization = pipeline.normalization
    augmentation, black, seed = pipeline.augmentation, normalization.black, context.exemplar_seed
    key = ("temporary", id(model), model.classifier.capacity, model.transfer, base, seed)
    if key not in context.temporary_models:
        with context.strategy.scope():
            temporary = TemporaryModel(model, base, augmentation, black, seed)
        if context.strategy.num_replicas_in_sync > 1:
            temporary = ReplicatedTemporaryModel(temporary, context.strategy)
        context.temporary_models[key] = temporary
    pool = TemporaryModelPool(context.temporary_models[key], model, members)
    settings = LearningSettings(
        exemplars_per_step=wanted.exemplars_per_step,
        outer_batch_size=wanted.outer_batch_size,
        validation_every=wanted.validation_every,
        patience=wanted.patience,
    )
    return ExemplarLearner(pool, settings, outer, normalization, seed)


def _as_exemplars(
    context: RunContext, memory: ExemplarMemory, rows: np.ndarray, learns: np.ndarray
) -> Exemplars:
    images = context.pipeline.normalization.normalize(memory.images[rows]).numpy()
    return Exemplars(images, memory.labels[rows], learns[rows])


def _with_learned(
    context: RunContext, memory: ExemplarMemory, rows: np.ndarray, exemplars: Exemplars
) -> ExemplarMemory:
    """Returns the memory with what was learned, rounded to valid pixels."""
    floats = tf.constant(exemplars.images[exemplars.learns])
    learned = context.pipeline.normalization.to_uint8(floats).numpy()
    return memory.with_images(learned, rows[exemplars.learns])


def _validation(
    state: PhaseState, exemplars: Exemplars, held_out: ImageSet | None
) -> Callable[[np.ndarray], float] | None:
    """Returns the score of the learning exemplars on held-out training images, or None."""
    if held_out is None:
        return None
    held_out_features = state.evaluator.outputs(held_out).features
    labels, learns = exemplars.labels[exemplars.learns], exemplars.learns

    def validate(images: np.ndarray) -> float:
        features = state.evaluator.features_of_pixels(images[learns])
        return probe_accuracy(features, labels, held_out_features, held_out.labels)

    return validate


def _companions(
    context: RunContext,
    state: PhaseState,
    name: str,
    steps: int,
    validate: Callable[[np.ndarray], float] | None = None,
) -> Companions:
    """Returns progress, validation and checkpoints for a stage of exemplar learning."""
    resume, start = None, 0
    if state.resume and state.resume.position:
        start = state.resume.position
        resume = (start, state.resume.groups["learning"])
    progress = StageProgress(
        state.phase.index, context.protocol.num_phases, name, steps, start, unit="step"
    )

    def save(step: int, arrays: Callable[[], dict[str, np.ndarray]]) -> None:
        run = context.settings.run
        every = run.checkpoint_outer_steps
        state.save_if_due(
            run.checkpoint_minutes,
            bool(every) and step % every == 0,
            name,
            step,
            lambda: {"learning": arrays()},
        )

    return Companions(progress.update, validate, save, resume)
