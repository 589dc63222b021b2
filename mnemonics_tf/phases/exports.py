"""The export of every phase: written when it ends, and found whole when a run goes on."""

import pathlib

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.protocol import ClassIncrementalProtocol, Phase
from mnemonics_tf.data.source import DataSource
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.phases.workshop import Workshop
from mnemonics_tf.run import results
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.learned import recorded_model_name
from mnemonics_tf.serving.assets import write_models_config
from mnemonics_tf.serving.export import export_folder, export_phase
from mnemonics_tf.serving.loading import damage
from mnemonics_tf.serving.signatures import ExportedClasses


class PhaseExports:
    """Writes a SavedModel for every phase of a run.

    Args:
        workshop: of the run.
        directory: of the run.
        source: names the classes and fits images.
        protocol: which class comes when.
    """

    def __init__(
        self,
        workshop: Workshop,
        directory: RunDirectory,
        source: DataSource,
        protocol: ClassIncrementalProtocol,
    ):
        self._workshop = workshop
        self._source = source
        self._protocol = protocol
        settings = workshop.settings
        self._folder = export_folder(
            directory.export,
            settings.protocol.dataset,
            settings.run.model_name,
            recorded_model_name(directory),
        )
        self._on_one_device: IncrementalModel | None = None

    def path(self, phase: Phase) -> pathlib.Path:
        """Returns where the SavedModel of a phase lies; its version counts phases from 1."""
        return self._folder / str(phase.index + 1)

    def trouble(self, phase: Phase) -> str:
        """Returns what is wrong with the SavedModel of a phase that is done, or nothing."""
        return damage(self.path(phase))

    def write_config(self) -> None:
        """Writes the server's configuration where it is missing, or names other models."""
        write_models_config(self._folder.parent)

    def write(
        self,
        phase: Phase,
        model: IncrementalModel,
        memory: ExemplarMemory,
        means: np.ndarray,
        accuracies: dict[str, float | None],
    ) -> None:
        """Writes the SavedModel of a phase.

        Args:
            phase: which.
            model: Theta_i.
            memory: E_{0:i}.
            means: class means of the nearest-mean head, `[classes, d]`.
            accuracies: of both heads, for whoever asks the export.
        """
        workshop = self._workshop
        if workshop.strategy is not tf.distribute.get_strategy():
            # Whoever loads an export expects the variables of one device.
            if self._on_one_device is None:
                self._on_one_device = model.frozen_copy()
            self._on_one_device.copy_from(model)
            model = self._on_one_device
        original_ids = self._protocol.original_ids(phase.seen_classes)
        export_phase(
            directory=self._folder,
            version=phase.index + 1,
            model=model,
            classes=ExportedClasses(
                tuple(original_ids), tuple(self._source.names_of(original_ids))
            ),
            normalization=workshop.pipeline.normalization,
            class_means=means,
            metadata={
                "phase": phase.index,
                "protocol": results.protocol_fingerprint(workshop.settings, self._protocol),
                "accuracy": accuracies,
            },
            warmup_images=memory.images_at(np.array([0])),
            fit_image=self._source.fit_image,
        )
