"""A run's models: the one that goes through all phases, and the frozen one of the phase before."""

from mnemonics_tf.data.protocol import ClassIncrementalProtocol, Phase
from mnemonics_tf.methods.base import Method
from mnemonics_tf.models.classifiers import capacity_for
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.phases.workshop import Workshop
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_arrays


class RunModels:
    """Gives models to phases; they stay the same objects, so that what was traced stays good.

    Args:
        workshop: of the run.
        method: how they learn.
        protocol: how many classes they have room for.
        directory: of the run.
    """

    def __init__(
        self,
        workshop: Workshop,
        method: Method,
        protocol: ClassIncrementalProtocol,
        directory: RunDirectory,
    ):
        self._workshop = workshop
        self._method = method
        self._capacity = capacity_for(protocol.num_classes)
        self._directory = directory
        self._model: IncrementalModel | None = None
        self._frozen: IncrementalModel | None = None

    def new(self, phase: Phase) -> IncrementalModel:
        """Returns Theta_0 before it learns."""
        with self._workshop.strategy.scope():
            self._model = IncrementalModel(
                self._workshop.architecture,
                phase.num_old,
                phase.num_new,
                self._workshop.seed,
                self._capacity,
            )
            if self._method.freezes_old_classes:
                self._model.classifier.freeze_old()
        return self._model

    def load(self, phase: Phase) -> IncrementalModel:
        """Returns Theta_i as it was at the end of phase i, from the run directory.

        It is the run's one model, which is at no other phase any more.
        """
        model = self._model or self.new(phase)
        path = self._directory.model(phase.index)
        model.set_classes(phase.num_old, phase.num_new)
        model.set_transfer(self._workshop.settings.model.weight_transfer and phase.index > 0)
        model.set_state(read_arrays(path), str(path))
        return model

    def frozen(self, model: IncrementalModel) -> IncrementalModel:
        """Returns the run's old model, with the weights of `model`."""
        if self._frozen is None:
            self._frozen = model.frozen_copy()
        else:
            self._frozen.copy_from(model)
        return self._frozen
