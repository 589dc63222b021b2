"""A pool of networks: Theta_i and copies whose features are not quite those of Theta_i."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from mnemonics_tf.bilevel.objectives.base import Objective
from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.pipeline import concatenate
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.phases.finetune import classification_alone, finetune_settings
from mnemonics_tf.phases.state import Stage
from mnemonics_tf.phases.temporary_model import fresh_weights
from mnemonics_tf.phases.workshop import Workshop
from mnemonics_tf.randomness import numpy_generator


def drifted_copies(
    workshop: Workshop,
    phase: Phase,
    model: IncrementalModel,
    copy: IncrementalModel,
    images: ImageSet,
    old: ImageSet,
    quota: int,
    stage: Stage,
) -> list[dict[str, np.ndarray]]:
    """Returns the weights of Theta_i and of copies that have gone through parts of a fine-tune.

    Copy k = 1..size - 1 gets a fresh classifier and k / (size - 1) of the fine-tune's epochs, on
    `quota` random images of each new class and those old exemplars that take part in learning, the
    same in all epochs; one epoch at least, also where a run has no fine-tune.
    Its features are then such as exemplars meet while they fine-tune a model.

    The paper starts from Theta_i alone (Section 4.3); a pool is this project's addition.

    Args:
        workshop: of the run.
        phase: which.
        model: Theta_i; read only.
        copy: of Theta_i; is trained for each of them, in turn.
        images: D_i.
        old: the exemplars of old classes that a copy sees; none where new ones learn alone.
        quota: images of a new class that a copy sees.
        stage: of exemplar learning; copies are made anew in every process that it goes on in.

    Raises:
        RunInterruptedError: if a stop was asked for.
    """
    size = workshop.settings.inner.pool_size  # Theta_i included
    states = [model.state()]
    settings = finetune_settings(workshop)
    for k in range(1, size):
        copy.copy_from(model)
        generator = numpy_generator(workshop.exemplar_seed, "drift", phase.index, k)
        for variable in copy.classifier.variables:
            variable.assign(fresh_weights(variable, generator, copy.classifier))
        copy.clear_correction()  # it was fitted to the classifier that this one takes the place of
        rows = [generator.permutation(images.indices_of(new))[:quota] for new in phase.new_classes]
        seen = concatenate([images.subset(np.concatenate(rows)), old])
        # Not in 16 bits, as all of exemplar learning; all copies of all phases share the loop.
        loop = workshop.training_loop(
            "drift", copy, None, classification_alone, settings, plain=True
        )
        epochs = max(1, round(settings.epochs * k / (size - 1)))
        beside = stage.unrecorded(f"copy {k} of {size - 1}")
        progress = beside.progress(epochs)
        for moment in loop.run(seen, range(epochs), ("drift", phase.index, k)):
            progress.update(moment.epoch + moment.step / moment.steps, moment.metrics)
            beside.save_if_due(0, 0, 0, dict)
        states.append(copy.state())
    return states


class InTurn:
    """An objective whose network has other weights in every outer step, in turn.

    Args:
        objective: around `model`.
        model: takes on the weights.
        members: states of the model; empty where it has those of the only member all the time.
    """

    def __init__(
        self,
        objective: Objective,
        model: IncrementalModel,
        members: Sequence[dict[str, np.ndarray]] = (),
    ):
        self._objective = objective
        self._model = model
        self._members = members

    def value_and_gradient(
        self,
        exemplars: tf.Tensor,
        labels: np.ndarray,
        learning: np.ndarray,
        outer: dict[str, tf.Tensor],
        *key: str | int,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what the objective does, for the member whose turn it is.

        Args:
            exemplars: as there.
            labels: as there.
            learning: as there.
            outer: as there, but `feature` is that of every member, `[m, members, d]`.
            *key: as there; its last part is the outer step, which decides whose turn it is.
        """
        turn = int(key[-1]) % max(1, len(self._members))
        if "feature" in outer:
            outer = outer | {"feature": outer["feature"][:, turn]}
        if self._members:
            self._model.set_state(self._members[turn])
        return self._objective.value_and_gradient(exemplars, labels, learning, outer, *key)
