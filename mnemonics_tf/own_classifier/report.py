"""What `learn_exemplars` tells of learning: in a report, and on one line."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Report:
    """How learning went.

    Attributes:
        held_out_accuracy_start: accuracy, on images of each class that were held out, of what the
            chosen exemplars teach before they learn: softmax regression on their features, or with
            `build` a few networks from scratch (mean); None where nothing was held out.
        held_out_accuracy_end: the same of the exemplars returned, rounded to uint8.
        validations: pairs of outer step and held-out accuracy.
        meta_losses: the outer loss (Eq. 7a) of every outer step.
        steps_kept: outer steps that the exemplars returned have gone through; 0 where after all of
            them the accuracy was below that of the start.
        shifts: how far each exemplar is from the image it began as, in grey levels: root mean
            square over its pixels, `[n]`.
        indices: the image that each exemplar began as, rows of `images`, `[n]`.
        stopped: why learning ended before its last step, or None.
        seconds: what all of it took.
    """

    held_out_accuracy_start: float | None
    held_out_accuracy_end: float | None
    validations: tuple[tuple[int, float], ...]
    meta_losses: tuple[float, ...]
    steps_kept: int
    shifts: np.ndarray
    indices: np.ndarray
    stopped: str | None
    seconds: float


def told(report: Report) -> str:
    """Returns what learning came to, on one line."""
    if report.held_out_accuracy_start is None and not report.steps_kept:
        return f"exemplars: {report.stopped}: they stay as they were chosen"
    if report.held_out_accuracy_start is None:
        return f"exemplars: learned in {report.steps_kept} steps; nothing was held out to judge by"
    why = f" (learning stopped: {report.stopped})" if report.stopped else ""
    if not report.steps_kept:
        return (
            "exemplars: learning did not help: held-out accuracy was "
            f"{report.held_out_accuracy_start:.3f} at the start and never higher; they stay as "
            f"they were chosen{why}"
        )
    return (
        f"exemplars: held-out accuracy {report.held_out_accuracy_start:.3f} at the start, "
        f"{report.held_out_accuracy_end:.3f} after {report.steps_kept} of "
        f"{len(report.meta_losses)} steps, which are kept{why}"
    )
