"""The balanced fine-tune of a phase on exemplars only (Algorithm 1, line 18)."""

import contextlib

from mnemonics_tf.data.draw import balanced
from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.methods.base import Method, cross_entropy
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.phases.state import Stage
from mnemonics_tf.phases.train_model import run_epochs
from mnemonics_tf.phases.workshop import Workshop
from mnemonics_tf.settings import TrainingSettings
from mnemonics_tf.training.optimization import OptimizationSettings


def finetune_model(
    workshop: Workshop, phase: Phase, exemplars: ImageSet, model: IncrementalModel, stage: Stage
) -> dict[str, float]:
    """Fine-tunes Theta_i on the exemplars only, as many of each class.

    Where classes hold different numbers, each epoch draws as many of each. All of Theta_i is
    trained (Section 4.3), also what a method froze while it learned new classes, LUCIR's weights of
    old classes: its authors' release balances a classifier with all of them, though on ImageNet
    alone, with the features fixed and with all of LUCIR's losses. With `finetune_old_classes` off
    they stay frozen here too.

    Departure from Section 5.1, where the fine-tune has the temporary model's gradient descent: the
    optimiser is that of the model level, with its momentum and L2, and images are augmented.

    Args:
        workshop: of the run.
        phase: which.
        exemplars: of all classes seen.
        model: Theta_i, which changes.
        stage: resumes, shows and saves.

    Returns:
        Loss and accuracy of the last epoch.
    """
    loop = workshop.training_loop(
        "finetune", model, None, classification_alone, finetune_settings(workshop)
    )
    training = workshop.settings.training
    earlier = phase.index if training.finetune_base_phase else phase.index - 1
    draw = balanced(exemplars.labels, training.replay_per_class)
    before = earlier * training.finetune_epochs
    all_classes = training.finetune_old_classes
    with model.classifier.all_trained() if all_classes else contextlib.nullcontext():
        return run_epochs(workshop, phase, exemplars, loop, stage, before, draw)


def finetunes(training: TrainingSettings, method: Method, phase: Phase) -> bool:
    """Returns whether the balanced fine-tune applies to a phase.

    Departure from Algorithm 1: phase 0 is left out unless `finetune_base_phase` is set. The step
    undoes the bias between many new and few old images (Section 4.3), and phase 0 has no old ones;
    there it only replaces all of D_0 by its exemplars.

    Args:
        training: how the model is trained.
        method: which; one that keeps all data has nothing to balance.
        phase: which.
    """
    if not training.finetune_epochs or method.keeps_past_data:
        return False
    return phase.index > 0 or training.finetune_base_phase


def classification_alone(batch, outputs, old_outputs) -> dict:
    """Returns the parts of the loss of a fine-tune: the cross-entropy."""
    del old_outputs
    return {"classification": cross_entropy(batch["label"], outputs.logits)}


def finetune_settings(workshop: Workshop) -> OptimizationSettings:
    """Returns how the balanced fine-tune goes: at one learning rate from its start to its end."""
    training = workshop.settings.training
    return workshop.optimization(
        training.finetune_epochs, training.finetune_learning_rate, milestones=()
    )
