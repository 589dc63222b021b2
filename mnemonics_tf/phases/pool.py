"""Drifted copies of Theta_i: weights whose features are not quite those of Theta_i."""

import numpy as np

from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.pipeline import concatenate
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.phases.state import PhaseState, RunContext
from mnemonics_tf.phases.temporary_model import fresh_weights
from mnemonics_tf.phases.train_model import classification_alone, finetune_settings, training_loop
from mnemonics_tf.randomness import numpy_generator


def copy_of(context: RunContext, model: IncrementalModel) -> IncrementalModel:
    """Returns a model of its own variables like `model`; the run has one, for all phases."""
    key = ("copy", id(model), model.classifier.capacity)
    if key not in context.temporary_models:
        classes = model.classifier
        with context.strategy.scope():
            context.temporary_models[key] = IncrementalModel(
                context.architecture,
                classes.num_old,
                classes.num_new,
                context.exemplar_seed,
                classes.capacity,
            )
    copy = context.temporary_models[key]
    copy.copy_from(model)
    return copy


def drifted_copies(
    context: RunContext,
    state: PhaseState,
    copy: IncrementalModel,
    images: ImageSet,
    old: ImageSet,
    quota: int,
    size: int,
) -> list[dict[str, np.ndarray]]:
    """Returns the weights of Theta_i and of copies that have gone through parts of a fine-tune.

    Copy k = 1..size - 1 gets a fresh classifier and k / (size - 1) of the fine-tune's epochs, on
    the old exemplars and `quota` random images of each new class. Its features are then such as
    exemplars meet while they fine-tune a model.

    The paper starts from Theta_i alone (Section 4.3); a pool is this project's addition.

    Args:
        context: of the run.
        state: of the phase; read only.
        copy: of Theta_i; is trained for each of them, in turn.
        images: D_i.
        old: the old exemplars.
        quota: images of a new class that a copy sees.
        size: of the pool, Theta_i included.
    """
    states = [state.model.state()]
    settings = finetune_settings(context)
    for k in range(1, size):
        copy.copy_from(state.model)
        generator = numpy_generator(context.exemplar_seed, "drift", state.phase.index, k)
        for variable in copy.classifier.variables:
            variable.assign(fresh_weights(variable, generator, copy.classifier))
        rows = [
            generator.permutation(images.indices_of(new))[:quota] for new in state.phase.new_classes
        ]
        seen = concatenate([images.subset(np.concatenate(rows)), old])
        # Not in 16 bits, as all of exemplar learning; all copies of all phases share the loop.
        loop = training_loop(
            context, "drift", copy, None, classification_alone, settings, plain=True
        )
        epochs = max(1, round(settings.epochs * k / (size - 1)))
        for epoch in range(epochs):
            figures = loop.run_epoch(seen, epoch, "drift", state.phase.index, k)
        LOGGER.info(
            "drifted copy %d of %d: %d epochs, loss %.3g", k, size - 1, epochs, figures["loss"]
        )
        states.append(copy.state())
    return states
