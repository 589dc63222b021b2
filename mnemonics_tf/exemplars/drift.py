"""Drifted copies of Theta_i: temporary models whose features are not quite those of Theta_i."""

import numpy as np

from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.pipeline import concatenate
from mnemonics_tf.exemplars.temporary_model import fresh_weights
from mnemonics_tf.methods.base import cross_entropy
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.progress import LOGGER
from mnemonics_tf.randomness import numpy_generator
from mnemonics_tf.run_state import PhaseState, RunContext
from mnemonics_tf.training.loop import TrainingLoop
from mnemonics_tf.training.model_level import finetune_settings


def drifted_copies(
    context: RunContext, state: PhaseState, images: ImageSet, old: ImageSet, quota: int, size: int
) -> list[IncrementalModel]:
    """Returns Theta_i and copies of it that have gone through parts of a fine-tune.

    Copy k = 1..size - 1 gets a fresh classifier and k / (size - 1) of the fine-tune's epochs, on
    the old exemplars and `quota` random images of each new class. Its features are then such as
    exemplars meet while they fine-tune a model.

    The paper starts from Theta_i alone (Section 4.3); a pool is this project's addition.

    Args:
        context: of the run.
        state: of the phase; read only.
        images: D_i.
        old: the old exemplars.
        quota: images of a new class that a copy sees.
        size: of the pool, Theta_i included.
    """
    copies = [state.model]
    settings = finetune_settings(context)
    for k in range(1, size):
        with context.strategy.scope():
            copy = IncrementalModel(
                context.architecture,
                state.phase.num_old,
                state.phase.num_new,
                context.exemplar_seed,
            )
            if state.model.transfer:
                copy.enable_transfer()
        copy.set_state(state.model.state())
        generator = numpy_generator(context.exemplar_seed, "drift", state.phase.index, k)
        for variable in copy.classifier.variables:
            variable.assign(fresh_weights(variable, generator, copy.classifier))
        rows = [
            generator.permutation(images.indices_of(new))[:quota] for new in state.phase.new_classes
        ]
        seen = concatenate([images.subset(np.concatenate(rows)), old])
        # In float32 whatever the run's precision, like all of exemplar learning.
        loop = TrainingLoop(copy, None, _loss_parts, settings, context.pipeline, context.strategy)
        epochs = max(1, round(settings.epochs * k / (size - 1)))
        for epoch in range(epochs):
            figures = loop.run_epoch(seen, epoch, "drift", state.phase.index, k)
        LOGGER.info(
            "drifted copy %d of %d: %d epochs, loss %.3g", k, size - 1, epochs, figures["loss"]
        )
        copies.append(copy)
    return copies


def _loss_parts(batch, outputs, old_outputs):
    del old_outputs
    return {"classification": cross_entropy(batch["label"], outputs.logits)}
