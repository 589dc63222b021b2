"""What a phase ends with: both heads tested, and a record (Algorithm 1, lines 19, 20)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.evaluation import metrics
from mnemonics_tf.evaluation.evaluator import Evaluator, Predictions
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.phases.state import PhaseState
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import write_arrays


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


def accuracies(heads: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """Returns each head's accuracy, from what `Predictions.summary` returns; None: not tested."""
    return {head: values["accuracy"] for head, values in heads.items()}


def best_constant(phase: Phase, predictions: Predictions) -> dict[str, Any] | None:
    """Returns what a constant on the new classes' logits would give, marked as chosen on test data.

    Args:
        phase: which.
        predictions: of its test set.

    Returns:
        None in phase 0, where all classes are new, where no logits are known or they are not
        finite, and where some of the classes could not be tested.
    """
    logits, tested = predictions.scores.get("classifier"), len(np.unique(predictions.labels))
    if not phase.num_old or logits is None or tested < phase.num_seen:
        return None
    if not np.isfinite(logits).all():  # of a model that has diverged
        return None
    constant, accuracy = metrics.best_constant(predictions.labels, logits, phase.num_old)
    return {"constant_on_new_logits": constant, "accuracy": accuracy, "chosen_on": "test data"}


def write_outcome(directory: RunDirectory, state: PhaseState, predictions: Predictions) -> None:
    """Writes what a phase leaves: memory, model and predictions, in this order."""
    index = state.phase.index
    state.memory.save(directory.exemplars(index))
    write_arrays(directory.model(index), state.model.state())
    write_arrays(directory.predictions(index), {"labels": predictions.labels, **predictions.heads})


def record_of(
    state: PhaseState,
    original_ids: Sequence[int],
    heads: dict[str, dict[str, Any]],
    best_constant: dict[str, Any] | None,
) -> dict[str, Any]:
    """Returns what phase.json holds; it closes the phase.

    Args:
        state: of the phase.
        original_ids: of the new classes.
        heads: what was predicted, summed up.
        best_constant: as the function of this name returns it.
    """
    return {
        "phase": state.phase.index,
        "num_seen": state.phase.num_seen,
        "new_classes": list(original_ids),
        "heads": heads,
        "best_constant": best_constant,
        "stages": state.metrics,
        "memory": {
            "exemplars": len(state.memory),
            "bytes": state.memory.bytes_used,
            "exemplars_by_class": np.bincount(state.memory.labels).tolist(),
            "bytes_by_class": state.memory.bytes_by_class().tolist(),
        },
        "seconds": {name: round(value, 1) for name, value in state.seconds.items()},
    }
