"""What TensorBoard shows of a phase at its end."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.monitoring import pictures, projector
from mnemonics_tf.monitoring.diagnostics import strips_of
from mnemonics_tf.phases.state import PhaseState, RunContext
from mnemonics_tf.run.files import RunDirectory, read_json

#: classes among which the projector shows exemplars, and test images of each
_CLASSES_PROJECTED = 10
_TEST_IMAGES = 30


def show_phase(
    context: RunContext,
    state: PhaseState,
    heads: dict[str, dict[str, Any]],
    class_names: Sequence[str],
) -> None:
    """Writes accuracies, matrices, exemplars, scales and the projector's files of a phase.

    Args:
        context: of the run.
        state: of the phase, its exemplars stored already.
        heads: what phase.json holds of each head.
        class_names: by label, of the classes seen.
    """
    summaries, phase = context.summaries, state.phase.index
    accuracies = {head: values["accuracy"] for head, values in heads.items()}
    summaries.scalars("accuracy", accuracies, phase)
    earlier = [read_json(context.directory.record(i))["heads"] for i in range(phase)]
    for head, values in heads.items():
        rows = [record[head]["group_accuracies"] for record in [*earlier, heads]]
        picture = pictures.accuracy_matrix(rows)
        summaries.images(f"accuracy_matrix/{head}", picture[np.newaxis], phase)
        picture = pictures.confusion_matrix(np.array(values["confusion_matrix"]))
        summaries.images(f"confusion_matrix/{head}", picture[np.newaxis], phase)
    birth = _births(context.directory, state)
    strips = strips_of(birth, state.memory.images, state.memory.labels)
    summaries.images("exemplars_birth_now_difference", strips, phase)
    if state.model.transfer:
        for layer in state.model.convolutions():
            values = {
                "scale": layer.transfer_scale.numpy(),
                "shift": layer.normalization.beta.numpy(),
            }
            summaries.histograms(f"weight_transfer/{layer.name}", values, phase)
    _project(context, state, class_names)
    summaries.flush()


def _births(directory: RunDirectory, state: PhaseState) -> np.ndarray:
    """Returns the memory's exemplars as they were at the end of the phase that made them."""
    memory, birth = state.memory, state.memory.images.copy()
    missing = memory.labels < state.phase.num_old
    for index in range(state.phase.index):
        first = ExemplarMemory.load(directory.exemplars(index))
        for label in np.unique(memory.labels[missing & np.isin(memory.labels, first.labels)]):
            rows = np.flatnonzero(memory.labels == label)
            # A class gives up its last exemplars: the first ones remain in their order.
            birth[rows] = first.images[first.labels == label][: len(rows)]
            missing[rows] = False
    return birth


def _project(context: RunContext, state: PhaseState, class_names: Sequence[str]) -> None:
    """Writes exemplars and test images of some classes for the projector.

    Test images, for the training images of earlier classes are out of reach.
    """
    seen = state.phase.num_seen
    labels = np.linspace(0, seen - 1, min(_CLASSES_PROJECTED, seen)).astype(int)
    test_set, memory = context.data.test_set(state.phase), state.memory.as_image_set()
    parts: list[tuple[str, ImageSet]] = []
    for label in labels:
        parts.append(("test image", test_set.subset(test_set.indices_of(label)[:_TEST_IMAGES])))
        parts.append(("exemplar", memory.subset(memory.indices_of(label))))
    kinds = [kind for kind, images in parts for _ in range(len(images))]
    names = [class_names[label] for _, images in parts for label in images.labels]
    projector.write_embedding(
        context.directory.tensorboard,
        f"phase{state.phase.index:02d}",
        np.concatenate([state.evaluator.outputs(images).features for _, images in parts]),
        np.concatenate([images.load_all() for _, images in parts]),
        {"class": names, "kind": kinds},
    )
