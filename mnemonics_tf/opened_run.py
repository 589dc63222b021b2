"""A run that is at hand: what scoring, exporting and going on with it have in common."""

import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.access import PhaseData
from mnemonics_tf.data.augmentation import AUGMENTATIONS
from mnemonics_tf.data.pipeline import Normalization, Pipeline
from mnemonics_tf.data.protocol import ClassIncrementalProtocol, Phase
from mnemonics_tf.data.source import DataSource
from mnemonics_tf.devices import create_strategy, spans_workers
from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluation.evaluator import Predictions
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.methods import METHODS
from mnemonics_tf.models.architecture import Architecture
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.monitoring.summaries import Summaries
from mnemonics_tf.phases import evaluate
from mnemonics_tf.phases.asked_for import make_protocol, settle
from mnemonics_tf.phases.backbone import open_backbone
from mnemonics_tf.phases.checks import check_settings
from mnemonics_tf.phases.exports import PhaseExports
from mnemonics_tf.phases.run_models import RunModels
from mnemonics_tf.phases.workshop import Workshop
from mnemonics_tf.phases.write_results import write_results
from mnemonics_tf.registry import find
from mnemonics_tf.run.data_facts import data_facts, preprocessing_of
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.resume import load_memory, read_record
from mnemonics_tf.settings import Settings


class OpenedRun:
    """One class-incremental run, whether it is to begin, to go on or to be looked at.

    Args:
        settings: of the run.
        source: where images come from.
        strategy: the distribution strategy that everything runs in; None: the one that the settings
            name.
        protocol: of a run that has learned further phases, which settings fit already; None: what
            the settings ask for.

    Attributes:
        settings: of the run.
        source: where images come from.
        protocol: which class comes when.
        preprocessing: what becomes of images.
        data: the gate to the phases' images.
        method: how the model learns.
        workshop: loops, evaluators and objectives, which serve all phases.
        strategy: the distribution strategy that everything runs in.
        models: of the phases.
        summaries: for TensorBoard.
        directory: where everything is written.
        exports: the SavedModels of the phases.

    Raises:
        UserError: if settings do not go together, or name what the data do not have.
    """

    def __init__(
        self,
        settings: Settings,
        source: DataSource,
        strategy: tf.distribute.Strategy | None = None,
        protocol: ClassIncrementalProtocol | None = None,
    ):
        strategy = strategy or create_strategy(settings.run.strategy)
        self.settings = settings = settle(settings)
        self.source = source
        self.method = find(METHODS, settings.training.method, "method")(settings.training)
        self.protocol = protocol or self._protocol()
        self.data = PhaseData(source, self.protocol, self.method.keeps_past_data)
        self.directory = RunDirectory(settings.run.run_dir)
        self.preprocessing = preprocessing_of(self.directory, source, self.protocol)
        self.workshop = Workshop(
            settings=settings,
            architecture=Architecture(
                settings.model.backbone,
                settings.model.depth,
                source.image_shape,
                self.method.classifier,
                self.method.corrects_logits,
                own=open_backbone(settings, self.preprocessing, self.directory),
            ),
            pipeline=Pipeline(
                Normalization(self.preprocessing.channel_mean, self.preprocessing.channel_std),
                AUGMENTATIONS[self.preprocessing.augmentation],
                settings.protocol.seed,
            ),
            strategy=strategy,
            num_classes=self.protocol.num_classes,
        )
        self.exports = PhaseExports(self.workshop, self.directory, source, self.protocol)
        self.strategy = strategy
        self.summaries = Summaries(self.directory.tensorboard)
        self.models = RunModels(self.workshop, self.method, self.protocol, self.directory)

    def _protocol(self) -> ClassIncrementalProtocol:
        """Returns the protocol that the settings ask for; refuses what does not fit together."""
        settings, source = self.settings, self.source
        protocol = make_protocol(
            settings, len(source.class_names), source.class_names, source.original_ids
        )
        check_settings(settings, self.method, protocol)
        return protocol

    def load_model(self, phase_index: int) -> IncrementalModel:
        """Returns Theta_i as it was at the end of phase i: the run's one model, as it is then."""
        return self.models.load(self.protocol.phases[phase_index])

    def load_memory(self, phase: Phase) -> ExemplarMemory:
        """Returns E_{0:i} as it was at the end of phase i, from the run directory."""
        stored_as = self.settings.exemplar
        return load_memory(self.directory, phase, self.source.image_shape, stored_as)

    def predict(
        self, phase: Phase, model: IncrementalModel, memory: ExemplarMemory
    ) -> tuple[Predictions, np.ndarray]:
        """Returns both heads' predictions of a phase's test set, and the class means `nme` used.

        Args:
            phase: whose seen classes are tested.
            model: Theta_i.
            memory: gives the class means.
        """
        evaluator = self.workshop.evaluator(model)
        return evaluate.predict(evaluator, phase, memory, self.data.test_set(phase))

    def predict_again(self, phase: Phase) -> Predictions:
        """Returns both heads' predictions of Theta_i and E_{0:i}, from the run directory."""
        memory = self.load_memory(phase)
        model = self.load_model(phase.index)
        with self.data.naming_broken_files():
            return self.predict(phase, model, memory)[0]

    def phases_done(self, index: int = -1) -> list[Phase]:
        """Returns the phases that are done.

        Args:
            index: of the one that is wanted; -1: all.

        Raises:
            UserError: if there is none.
        """
        done = [p for p in self.protocol.phases if self.directory.record(p.index).exists()]
        chosen = [phase for phase in done if index in (-1, phase.index)]
        if not done:
            raise UserError(
                f"no phase of {self.directory.root} is done yet: go on with "
                "python -m mnemonics_tf.train first"
            )
        if not chosen:
            raise UserError(
                f"--phase={index} is not done in {self.directory.root}; done: "
                f"{', '.join(str(phase.index) for phase in done)}"
            )
        return chosen

    def groups(self, phase: Phase) -> Sequence[range]:
        """Returns the class groups of the phases up to this one."""
        return [earlier.new_classes for earlier in self.protocol.phases[: phase.index + 1]]

    def look_after_export(self, phase: Phase) -> None:
        """Makes the damaged export of a phase that is done again; of a missing one it tells.

        And a models.config that is lost, or names a folder that has another name now.
        """
        path, trouble = self.exports.path(phase), self.exports.trouble(phase)
        self.exports.write_config()
        if not trouble:
            return
        kept = (self.directory.model(phase.index), self.directory.exemplars(phase.index))
        lost = [file.name for file in kept if not file.exists()]
        # One that is not there may have been moved away, so that servers go back to an earlier one.
        if path.exists() and not lost and not spans_workers(self.strategy):
            self.export(phase)  # which tells of it
            return
        run_dir = shlex.quote(str(self.directory.root))
        way_out = f"python -m mnemonics_tf.export --run_dir={run_dir} makes it again"
        if lost:
            way_out = f"it can't be made again, for the phase has lost {' and '.join(lost)}"
        LOGGER.warning(
            "phase %d is done, but its export %s %s: %s", phase.index, path, trouble, way_out
        )

    def export(self, phase: Phase) -> None:
        """Exports a phase that is done, on one machine."""
        memory = self.load_memory(phase)
        model = self.load_model(phase.index)
        means = self.workshop.evaluator(model).class_means(memory, phase.num_seen)
        heads = read_record(self.directory, phase)["heads"]
        self.exports.write(phase, model, memory, means, evaluate.accuracies(heads))

    def class_facts(self) -> dict[str, Any]:
        """Returns what the run directory notes of the data: a run goes on with the same only.

        To be asked for before the first phase ends, which makes training images go out of reach.
        """
        return data_facts(self.source, self.protocol, self.preprocessing)

    def write_results(self, phases: Sequence[Phase], settings: Settings) -> dict[str, Any]:
        """Writes results.json, of phases that are done; returns what it holds.

        Args:
            phases: which.
            settings: of the run; those of a phase that was learned afterwards are in its record.
        """
        return write_results(
            self.directory,
            settings,
            self.protocol,
            phases,
            self.source.names_of(self.protocol.order),
            self.strategy.num_replicas_in_sync,
            self.summaries,
        )
