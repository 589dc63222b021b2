"""What every method shares: its losses, its classifier and what it may keep."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.models.classifiers import MASKED
from mnemonics_tf.models.incremental import IncrementalModel, Outputs
from mnemonics_tf.settings import TrainingSettings


@dataclasses.dataclass(frozen=True)
class MeanOver:
    """A part of a loss that is the mean over some of a batch's examples, on all replicas.

    Attributes:
        values: one number per example, `[b]`.
        examples: which ones it is the mean over, bool `[b]`; where there are none it is 0.
    """

    values: tf.Tensor
    examples: tf.Tensor


class Method:
    """A way to train Theta_i on new data and old exemplars.

    A subclass defines `loss_parts`; the other members have defaults that suit most methods.

    Attributes:
        classifier: name of the classifier layer it uses.
        prediction_head: `classifier` or `nme`: which head its own paper predicts with.
        keeps_past_data: whether training data of earlier phases stays in reach (the upper bound
            only).
        corrects_logits: whether its models hold a correction of the logits for each class.
        freezes_old_classes: whether the classifier's weights of old classes are not trained but by
            the fine-tune.
    """

    classifier: str = "linear"
    prediction_head: str = "classifier"
    keeps_past_data: bool = False
    corrects_logits: bool = False
    freezes_old_classes: bool = False

    def __init__(self, settings: TrainingSettings):
        self.settings = settings

    def loss_parts(
        self,
        batch: dict[str, tf.Tensor],
        outputs: Outputs,
        old_outputs: Outputs | None,
    ) -> Mapping[str, tf.Tensor | MeanOver]:
        """Returns the named parts of the loss, one number per example, factors included.

        It is traced once and serves all later phases: how many classes there are it must take from
        the outputs' `num_classes`, whose values change, and not from Python.

        Args:
            batch: `image`, `label` and `weight` of `[b, ...]`.
            outputs: of the model in training; logits of unseen classes are masked.
            old_outputs: of the frozen model of the phase before; None in phase 0.

        Returns:
            Name to `[b]`, of which the batch's mean counts, or to a `MeanOver` some of the
            examples; the loss of the batch is the sum of the parts.
        """
        raise NotImplementedError

    def initialise_new_classes(
        self, model: IncrementalModel, phase: Phase, features_of: Callable[[int], np.ndarray]
    ) -> None:
        """Sets the new classes' first weights, before the first step of a phase.

        Args:
            model: Theta_i, grown.
            phase: what is old and what is new.
            features_of: maps a new class's label to the features `[n, d]` of its training images.
        """

    def held_out_per_class(self, phase: Phase, exemplars_per_class: int) -> int:
        """Returns how many images of each class to keep from training, for `after_training`."""
        return 0

    def after_training(
        self, model: IncrementalModel, phase: Phase, labels: np.ndarray, logits: np.ndarray
    ) -> None:
        """Hook after the last step of a phase, where images were held out.

        Args:
            model: Theta_i.
            phase: what is old and what is new.
            labels: of the held-out images, `[n]`.
            logits: of the held-out images, `[n, classes]`.
        """


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Softmax cross-entropy of each example, `[b]` (Eq. 2, on probabilities).

    The paper prints the logarithm of the logit itself; the text says softmax cross-entropy, which
    is what is computed here.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def distillation(logits: tf.Tensor, old_logits: tf.Tensor, temperature: float) -> tf.Tensor:
    """Distillation loss of each example, `[b]`: -sum_k pi^_k log pi_k over the old classes (Eq. 1).

    Args:
        logits: of the new model, `[b, classes]`; only the old classes' columns count.
        old_logits: of the frozen model, `[b, classes or fewer]`; what is masked there is no class
            that it knows, and counts in neither distribution.
        temperature: tau; both logits are divided by it.
    """
    logits = logits[:, : old_logits.shape[1]]
    masked = tf.constant(MASKED, logits.dtype)
    known = old_logits > masked / 2
    targets = tf.nn.softmax(tf.where(known, old_logits / temperature, masked))
    softened = tf.where(known, logits / temperature, masked)
    return tf.nn.softmax_cross_entropy_with_logits(targets, softened)
