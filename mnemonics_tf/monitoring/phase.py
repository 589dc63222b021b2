"""What TensorBoard shows of a phase at its end."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.evaluation.evaluator import Evaluator
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.monitoring import pictures, projector
from mnemonics_tf.monitoring.diagnostics import strips_of
from mnemonics_tf.monitoring.summaries import Summaries
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_json

#: classes among which the projector shows exemplars, and test images of each
_CLASSES_PROJECTED = 10
_TEST_IMAGES = 30


def show_phase(
    summaries: Summaries,
    directory: RunDirectory,
    phase: Phase,
    model: IncrementalModel,
    evaluator: Evaluator,
    memory: ExemplarMemory,
    test_set: ImageSet,
    heads: dict[str, dict[str, Any]],
    class_names: Sequence[str],
) -> None:
    """Writes accuracies, matrices, exemplars, scales and the projector's files of a phase.

    Args:
        summaries: of the run.
        directory: of the run, the phase's exemplars stored already.
        phase: which.
        model: Theta_i.
        evaluator: of it.
        memory: the exemplars.
        test_set: of the classes seen.
        heads: what phase.json holds of each head.
        class_names: by label, of the classes seen.
    """
    index = phase.index
    accuracies = {head: values["accuracy"] for head, values in heads.items()}
    summaries.scalars("accuracy", accuracies, index)
    earlier = [read_json(directory.record(i))["heads"] for i in range(index)]
    for head, values in heads.items():
        rows = [record[head]["group_accuracies"] for record in [*earlier, heads]]
        picture = pictures.accuracy_matrix(rows)
        summaries.images(f"accuracy_matrix/{head}", picture[np.newaxis], index)
        picture = pictures.confusion_matrix(np.array(values["confusion_matrix"]))
        summaries.images(f"confusion_matrix/{head}", picture[np.newaxis], index)
    birth = _births(directory, phase, memory)
    strips = strips_of(birth, memory.images, memory.labels)
    summaries.images("exemplars_birth_now_difference", strips, index)
    if model.transfer:
        for layer in model.transfer_layers():
            shift = layer.shift()
            values = {"scale": layer.transfer_scale.numpy()}
            if shift is not None:
                values["shift"] = shift.numpy()
            summaries.histograms(f"weight_transfer/{layer.name}", values, index)
    features, images, rows = _projected(phase, evaluator, memory, test_set, class_names)
    projector.write_embedding(directory.tensorboard, f"phase{index:02d}", features, images, rows)
    summaries.flush()


def _births(directory: RunDirectory, phase: Phase, memory: ExemplarMemory) -> np.ndarray:
    """Returns the memory's exemplars as they were at the end of the phase that made them."""
    birth = np.array(memory.images)
    missing = memory.labels < phase.num_old
    for index in range(phase.index):
        first = ExemplarMemory.load(directory.exemplars(index), memory.codec)
        for label in np.unique(memory.labels[missing & np.isin(memory.labels, first.labels)]):
            rows = np.flatnonzero(memory.labels == label)
            # A class gives up its last exemplars: the first ones remain in their order.
            birth[rows] = first.images[first.labels == label][: len(rows)]
            missing[rows] = False
    return birth


def _projected(
    phase: Phase,
    evaluator: Evaluator,
    memory: ExemplarMemory,
    test_set: ImageSet,
    class_names: Sequence[str],
) -> tuple[np.ndarray, np.ndarray, dict[str, list[str]]]:
    """Returns features, images and names of exemplars and test images of some classes.

    Test images, for the training images of earlier classes are out of reach.
    """
    seen = phase.num_seen
    labels = np.linspace(0, seen - 1, min(_CLASSES_PROJECTED, seen)).astype(int)
    exemplars = memory.as_image_set()
    parts: list[tuple[str, ImageSet]] = []
    for label in labels:
        parts.append(("test image", test_set.subset(test_set.indices_of(label)[:_TEST_IMAGES])))
        parts.append(("exemplar", exemplars.subset(exemplars.indices_of(label))))
    kinds = [kind for kind, images in parts for _ in range(len(images))]
    names = [class_names[label] for _, images in parts for label in images.labels]
    return (
        np.concatenate([evaluator.outputs(images).features for _, images in parts]),
        np.concatenate([images.load_all() for _, images in parts]),
        {"class": names, "kind": kinds},
    )
