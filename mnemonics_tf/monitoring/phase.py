"""What TensorBoard shows of a phase at its end."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.evaluation.evaluator import Evaluator
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.monitoring import pictures, projector
from mnemonics_tf.monitoring.diagnostics import rows_shown, strips_of
from mnemonics_tf.monitoring.progress import LOGGER
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
    tested = {head: value for head, value in accuracies.items() if value is not None}
    summaries.scalars("accuracy", tested, index)
    earlier = [read_json(directory.record(i)) for i in range(index)]
    ends = [*(record["num_seen"] for record in earlier), phase.num_seen]
    for name, picture in _matrices(
        directory.root, index, heads, earlier, class_names, ends
    ).items():
        summaries.images(name, picture[np.newaxis], index)
    shown = rows_shown(memory.labels)
    strips = strips_of(_births(directory, phase, ends, memory, shown), memory.images_at(shown))
    summaries.images("exemplars_birth_now_difference", strips, index)
    if model.transfer:
        for layer in model.transfer_layers():
            shift = layer.shift()
            values = {"scale": layer.transfer_scale.numpy()}
            if shift is not None:
                values["shift"] = shift.numpy()
            summaries.histograms(f"weight_transfer/{layer.name}", values, index)
    features, images, columns = _projected(phase, evaluator, memory, test_set, class_names)
    projector.write_embedding(directory.tensorboard, f"phase{index:02d}", features, images, columns)
    summaries.flush()


def _matrices(
    run: pathlib.Path,
    index: int,
    heads: dict[str, dict[str, Any]],
    earlier: list[dict[str, Any]],
    class_names: Sequence[str],
    ends: Sequence[int],
) -> dict[str, np.ndarray]:
    """Returns both heads' matrices of accuracies and of confusions, by name.

    None where matplotlib is not installed or fails: no phase stays undone for want of a picture.

    Args:
        run: directory of the run.
        index: of the phase.
        heads: what phase.json holds of each head.
        earlier: the records of earlier phases.
        class_names: by label, of the classes seen.
        ends: classes seen by the end of each phase.
    """
    if not pictures.can_draw():
        if index == 0:
            LOGGER.info(
                "TensorBoard gets no matrices: matplotlib is not installed (pip install "
                "'mnemonics-tf[report]')"
            )
        return {}
    drawn = {}
    for head, values in heads.items():
        rows = [record["heads"][head]["group_accuracies"] for record in earlier]
        rows.append(values["group_accuracies"])
        counts = np.array(values["confusion_matrix"])
        try:
            drawn[f"accuracy_matrix/{head}"] = pictures.accuracy_matrix(rows)
            drawn[f"confusion_matrix/{head}"] = pictures.confusion_matrix(counts, class_names, ends)
        except Exception as error:  # matplotlib's own, and those of what it is built on
            _tell_of_no_matrices(run, f"{type(error).__name__}: {error}")
            return {}
    return drawn


@functools.cache  # a reason once in a run
def _tell_of_no_matrices(run: pathlib.Path, reason: str) -> None:
    LOGGER.warning("TensorBoard gets no matrices: matplotlib can't draw them (%s)", reason)


def _births(
    directory: RunDirectory,
    phase: Phase,
    ends: Sequence[int],
    memory: ExemplarMemory,
    rows: np.ndarray,
) -> np.ndarray:
    """Returns the first exemplars of classes as they were at the end of the phase that made them.

    Where the exemplars of that phase are gone they are as they are now.

    Args:
        directory: of the run.
        phase: which.
        ends: classes seen by the end of each phase.
        memory: the exemplars.
        rows: of the memory: the first exemplar of each class asked for. A class gives up its last
            exemplars, so that it is still the same one.
    """
    birth, labels = memory.images_at(rows), memory.labels[rows]
    taught_in = np.searchsorted(ends, labels, side="right")
    for index in np.unique(taught_in[taught_in < phase.index]).tolist():  # a file may be large
        path = directory.exemplars(index)
        if not path.exists():  # as on workers beside the chief: nothing else asks for it
            continue
        first = ExemplarMemory.load(path, memory.codec)
        here = (taught_in == index) & np.isin(labels, first.labels)
        birth[here] = first.images_at(np.searchsorted(first.labels, labels[here]))
    return birth


def _projected(
    phase: Phase,
    evaluator: Evaluator,
    memory: ExemplarMemory,
    test_set: ImageSet,
    class_names: Sequence[str],
) -> tuple[np.ndarray, np.ndarray, dict[str, list[str]]]:
    """Returns features, images and names of exemplars and test images of some classes.

    Test images, for the training images of earlier classes are out of reach; where there are any.
    """
    seen = phase.num_seen
    labels = np.linspace(0, seen - 1, min(_CLASSES_PROJECTED, seen)).astype(int)
    exemplars = memory.as_image_set()
    parts: list[tuple[str, ImageSet]] = []
    for label in labels:
        parts.append(("test image", test_set.subset(test_set.indices_of(label)[:_TEST_IMAGES])))
        parts.append(("exemplar", exemplars.subset(exemplars.indices_of(label))))
    parts = [(kind, images) for kind, images in parts if len(images)]
    kinds = [kind for kind, images in parts for _ in range(len(images))]
    names = [class_names[label] for _, images in parts for label in images.labels]
    return (
        np.concatenate([evaluator.features(images) for _, images in parts]),
        np.concatenate([images.load_all() for _, images in parts]),
        {"class": names, "kind": kinds},
    )
