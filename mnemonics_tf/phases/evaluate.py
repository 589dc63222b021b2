"""What a phase ends with: both heads tested, an export and a record (Algorithm 1, lines 19, 20)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.data.source import DataSource
from mnemonics_tf.evaluation.evaluator import Evaluator, Predictions
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.phases.state import PhaseState
from mnemonics_tf.phases.workshop import Workshop
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import write_arrays
from mnemonics_tf.serving.export import ExportedClasses, export_name, export_phase


def predict(
    evaluator: Evaluator, phase: Phase, memory: ExemplarMemory, test_set: ImageSet
) -> tuple[Predictions, np.ndarray]:
    """Returns both heads' predictions of a phase's test set, and the class means `nme` used.

    Args:
        evaluator: of the model.
        phase: whose seen classes are tested.
        memory: gives the class means.
        test_set: of those classes.
    """
    means = evaluator.class_means(memory, phase.num_seen)
    return evaluator.predict(test_set, means), means


def accuracies(heads: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Returns each head's accuracy, from what `Predictions.summary` returns."""
    return {head: values["accuracy"] for head, values in heads.items()}


def write_outcome(directory: RunDirectory, state: PhaseState, predictions: Predictions) -> None:
    """Writes what a phase leaves: memory, model and predictions, in this order."""
    index = state.phase.index
    state.memory.save(directory.exemplars(index))
    write_arrays(directory.model(index), state.model.state())
    write_arrays(directory.predictions(index), {"labels": predictions.labels, **predictions.heads})


def record_of(
    state: PhaseState, original_ids: Sequence[int], heads: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Returns what phase.json holds; it closes the phase.

    Args:
        state: of the phase.
        original_ids: of the new classes.
        heads: what was predicted, summed up.
    """
    return {
        "phase": state.phase.index,
        "num_seen": state.phase.num_seen,
        "new_classes": list(original_ids),
        "heads": heads,
        "stages": state.metrics,
        "memory": {"exemplars": len(state.memory), "bytes": state.memory.bytes_used},
        "seconds": {name: round(value, 1) for name, value in state.seconds.items()},
    }


def export(
    workshop: Workshop,
    directory: RunDirectory,
    source: DataSource,
    original_ids: Sequence[int],
    state: PhaseState,
    model: IncrementalModel,
    means: np.ndarray,
    metadata: dict[str, Any],
) -> None:
    """Writes the phase's SavedModel.

    Args:
        workshop: of the run.
        directory: of the run.
        source: names the classes and fits images.
        original_ids: of the classes seen.
        state: of the phase.
        model: Theta_i on one device, as whoever loads an export expects it.
        means: class means of the nearest-mean head, `[classes, d]`.
        metadata: of the run and phase, for whoever asks the export.
    """
    names = source.names_of(original_ids)
    export_phase(
        directory=directory.export / export_name(workshop.settings.protocol.dataset),
        version=state.phase.index + 1,
        model=model,
        predict=model,
        classes=ExportedClasses(tuple(original_ids), tuple(names)),
        normalization=workshop.pipeline.normalization,
        class_means=means,
        metadata={"phase": state.phase.index, **metadata},
        warmup_images=np.array(state.memory.images[:1]),
        fit_image=source.fit_image,
    )
