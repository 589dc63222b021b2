"""What became of exemplars that learned: metrics for results.json, curves and images to look at."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mnemonics_tf.arrays import grey_levels_moved
from mnemonics_tf.bilevel.learner import Course
from mnemonics_tf.data.image_set import ArrayImageSet, ImageSet
from mnemonics_tf.evaluation.evaluator import Evaluator
from mnemonics_tf.evaluation.probe import margins
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.models.classifiers import CosineClassifier
from mnemonics_tf.models.incremental import IncrementalModel, Outputs
from mnemonics_tf.monitoring.summaries import Summaries
from mnemonics_tf.norms import unit_length

#: classes of which TensorBoard shows an exemplar
_CLASSES_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Change:
    """Exemplars before and after they learned, and what changed, by exemplar.

    Attributes:
        start: as they were, uint8.
        end: as they are stored now, uint8.
        pixel_distances: root mean square over an image's pixels, in grey levels of 255, `[n]`.
        feature_distances: between L2-normalised features, so at most 2, `[n]`.
        margins_start: distance to Theta_i's nearest decision boundary in feature space, `[n]`.
        margins_end: the same, now.
    """

    start: ArrayImageSet
    end: ArrayImageSet
    pixel_distances: np.ndarray
    feature_distances: np.ndarray
    margins_start: np.ndarray
    margins_end: np.ndarray


def measure_change(
    model: IncrementalModel,
    evaluator: Evaluator,
    before: ExemplarMemory,
    after: ExemplarMemory,
    changed: np.ndarray,
) -> Change:
    """Compares exemplars before and after they learned.

    Args:
        model: Theta_i.
        evaluator: of it.
        before: the memory as it was.
        after: the same exemplars, with what was learned.
        changed: which of them learned, bool `[n]`.
    """
    rows = np.flatnonzero(changed)
    start, end = (
        ArrayImageSet(memory.images_at(rows), memory.labels[rows]) for memory in (before, after)
    )
    outputs_start, outputs_end = evaluator.outputs(start), evaluator.outputs(end)
    features = unit_length(outputs_end.features) - unit_length(outputs_start.features)
    return Change(
        start,
        end,
        grey_levels_moved(start.images, end.images),
        np.linalg.norm(features, axis=1),
        _margins(model, start.labels, outputs_start),
        _margins(model, end.labels, outputs_end),
    )


def feature_margins(model: IncrementalModel, evaluator: Evaluator, images: ImageSet) -> np.ndarray:
    """Returns images' distances `[n]` to Theta_i's nearest decision boundary in feature space.

    For a cosine classifier it is the distance of L2-normalised features and weights.
    """
    return _margins(model, images.labels, evaluator.outputs(images))


def _margins(model: IncrementalModel, labels: np.ndarray, outputs: Outputs) -> np.ndarray:
    classifier = model.classifier
    kernel, logits = classifier.seen_kernel(), outputs.logits
    if isinstance(classifier, CosineClassifier):
        kernel = unit_length(kernel.T).T
        logits = logits / float(classifier.scale.value)
    if model.correction:  # logits are those after it
        kernel = kernel * model.correction.gain.numpy()[: kernel.shape[1]]
    return margins(labels, logits, kernel)


def mean_margin(found: np.ndarray) -> float | None:
    """Returns the mean of images' margins; None of a single class, which has no boundary."""
    mean = float(found.mean())
    return mean if math.isfinite(mean) else None


def metrics(course: Course, change: Change) -> dict[str, Any]:
    """Returns what results.json says of exemplars that learned; means over the exemplars."""
    return {
        "count": len(change.end),
        "steps": len(course.meta_losses),
        "steps_kept": course.steps_kept,
        "stopped": course.stopped,
        "meta_loss": _thinned(course.meta_losses),
        "validations": course.validations,
        "pixel_distance": float(change.pixel_distances.mean()),
        "feature_distance": float(change.feature_distances.mean()),
        "clipped_share": _share_of(change.end.images, (0, 255)),
        "margin_start": mean_margin(change.margins_start),
        "margin_end": mean_margin(change.margins_end),
    }


def _share_of(pixels: np.ndarray, values: Sequence[int]) -> float:
    """Returns the share of pixels that have one of some values; `isin` takes eight times theirs."""
    return sum(np.count_nonzero(pixels == value) for value in values) / pixels.size


def show(
    summaries: Summaries,
    stage: str,
    phase: int,
    course: Course,
    change: Change,
    before: int,
    margins_herding: np.ndarray | None = None,
    held_out: dict[str, float] | None = None,
) -> None:
    """Shows in TensorBoard how exemplars learned: curves over the outer steps, the rest by phase.

    Args:
        summaries: of the run.
        stage: `exemplars` or `adjust`, the first part of all tags.
        phase: index of the phase.
        course: of the learning.
        change: of the exemplars.
        before: how many outer steps the stage had in all earlier phases.
        margins_herding: margins of the images that herding would have chosen, if they are known.
        held_out: accuracy on held-out images of the exemplars as they began and as they are stored,
            by name; None without held-out images.
    """
    for step, loss in enumerate(course.meta_losses):
        summaries.course(stage, phase, {"meta_loss": loss}, step, before)
    for step, accuracy in course.validations:
        summaries.course(stage, phase, {"held_out_accuracy": accuracy}, step, before)
    if held_out:
        summaries.scalars(f"{stage}/held_out_accuracy", held_out, phase)
    histograms = {"pixel_distance": change.pixel_distances}
    margins_of = {
        "margin_start": change.margins_start,
        "margin_end": change.margins_end,
        "margin_herding": margins_herding,
    }
    for name, margins_now in margins_of.items():
        if margins_now is not None and mean_margin(margins_now) is not None:
            histograms[name] = margins_now
    summaries.histograms(stage, histograms, phase)
    summaries.images(f"{stage}/start_end_difference", strips(change), phase)
    summaries.flush()


def strips(change: Change) -> np.ndarray:
    """Returns `strips_of` exemplars before and after they learned."""
    rows = rows_shown(change.end.labels)
    return strips_of(change.start.images[rows], change.end.images[rows])


def rows_shown(labels: np.ndarray) -> np.ndarray:
    """Returns the rows of the first exemplar of each of some classes.

    Args:
        labels: `[n]`.
    """
    _, rows = np.unique(labels, return_index=True)
    return rows[np.linspace(0, len(rows) - 1, min(_CLASSES_SHOWN, len(rows))).astype(int)]


def strips_of(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Returns images `[k, h, 3 w, c]`, uint8: as each was, as it is, and half of the difference.

    The difference is around middle grey.

    Args:
        before: uint8 `[k, h, w, c]`.
        now: the same exemplars, in the same order.
    """
    difference = (now.astype(np.int16) - before + 256) // 2
    return np.concatenate([before, now, np.minimum(difference, 255).astype(np.uint8)], axis=2)


def _thinned(values: list[float], most: int = 200) -> list[float]:
    """Returns every k-th value so that at most `most` remain."""
    return values[:: max(1, -(-len(values) // most))]
