"""phase.json: what it must hold, and whether the predictions beside it agree."""

import math
from collections.abc import Sequence
from typing import Any

from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluation.evaluator import HEADS, Predictions
from mnemonics_tf.run import schema
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_arrays
from mnemonics_tf.run.schema import Shape

_METRIC = schema.optional(schema.number(finite=False))

#: what a stage that made exemplars learn tells of it
_LEARNING = schema.fields(
    {},
    {
        "count": schema.optional(schema.whole()),
        "steps": schema.optional(schema.whole()),
        "meta_loss": schema.optional(schema.sequence(schema.number(finite=False))),
        **dict.fromkeys(("pixel_distance", "feature_distance", "clipped_share"), _METRIC),
        **dict.fromkeys(("margin_start", "margin_end"), _METRIC),
    },
    others=schema.anything,
)


def record_shape(index: int) -> Shape:
    """Returns the shape of the record that closes a phase.

    Args:
        index: of the phase.
    """
    share = schema.optional(schema.number(0, 1))  # null where not all of it was tested
    head = schema.fields(
        {"accuracy": share, "group_accuracies": schema.sequence(share, length=index + 1)},
        {
            "confusion_matrix": schema.sequence(schema.sequence(schema.whole())),
            "top5_accuracy": schema.optional(share),
        },
    )
    learning = schema.optional(_LEARNING)
    fields = schema.fields(
        {
            "phase": schema.one_of(index),
            "num_seen": schema.whole(1),
            "heads": schema.fields(dict.fromkeys(HEADS, head)),
        },
        {
            "best_constant": schema.optional(
                schema.fields(
                    {"accuracy": share, "constant_on_new_logits": schema.number()},
                    others=schema.text,
                )
            ),
            "new_classes": schema.sequence(schema.whole(low=-(2**53))),
            "stages": schema.fields(
                {},
                {
                    "exemplars": learning,
                    "adjust": learning,
                    "phase0": schema.fields(
                        {"seed": schema.whole()}, {"mixed_precision": schema.text}
                    ),
                },
                others=schema.anything,
            ),
            "memory": schema.fields(
                {},
                dict.fromkeys(
                    ("exemplars_by_class", "bytes_by_class"), schema.sequence(schema.whole())
                ),
                others=schema.number(0),
            ),
            "learned": schema.fields(
                {},
                {"settings": schema.mapping(schema.mapping(schema.plain))},
                others=schema.anything,
            ),
            "seconds": schema.mapping(schema.number(0)),
        },
    )

    def check(record: Any) -> str | None:
        wrong = fields(record)
        if wrong:
            return wrong
        count = record["num_seen"]
        sized = schema.optional(
            schema.sequence(schema.sequence(schema.anything, length=count), length=count)
        )
        for name, metrics in record["heads"].items():
            wrong = sized(metrics.get("confusion_matrix"))
            if wrong:
                return f"/heads/{name}/confusion_matrix{wrong}"
        return None

    return check


def refuse_contradictions(
    directory: RunDirectory, records: Sequence[dict[str, Any]], place: str | None = None
) -> None:
    """Compares records with the predictions that they sum up, as far as those are there.

    Args:
        directory: of the run.
        records: of the phases from 0 on, of the shape that they must have.
        place: the file that holds them all; None: each phase's own phase.json.

    Raises:
        UserError: names the record that says something else, or predictions that are damaged.
    """
    ends = [0, *(record["num_seen"] for record in records)]
    groups = [range(first, end) for first, end in zip(ends, ends[1:], strict=False)]
    for index, record in enumerate(records):
        path = directory.predictions(index)
        if not path.exists():  # workers beside the chief have none
            continue
        found = _predictions(directory, index, ends[index + 1]).summary(groups[: index + 1])
        for head, metrics in found.items():
            wrong = _difference(record["heads"][head], metrics)
            if wrong:
                where = place or directory.record(index)
                raise UserError(
                    f"{where} and {path} contradict each other: of phase {index}, head {head}, "
                    f"the first says {wrong[0]} and the second comes to {wrong[1]}: one of them "
                    "was changed; put the right one back, or take the run from a copy"
                )


def _predictions(directory: RunDirectory, index: int, num_seen: int) -> Predictions:
    path = directory.predictions(index)
    arrays = read_arrays(path)
    labels = arrays.get("labels")
    for name in ("labels", *HEADS):
        array = arrays.get(name)
        fits = (
            labels is not None
            and array is not None
            and array.dtype.kind == "i"
            and array.shape == (len(labels),)
            and len(array)
            and 0 <= array.min() <= array.max() < num_seen
        )
        if not fits:
            raise UserError(
                f"{path} is damaged: {name!r} holds no labels from 0 to {num_seen - 1}, one for "
                "each test image; put the right one back, or remove it to go on without it"
            )
    return Predictions(arrays["labels"], {head: arrays[head] for head in HEADS})


def _difference(recorded: dict[str, Any], found: dict[str, Any]) -> tuple[str, str] | None:
    """Returns the first metric of a head that differs, as both have it."""

    def shown(value: float | None) -> str:
        return "not tested" if value is None else f"{value:.4%}"

    pairs = [
        ("accuracy", recorded["accuracy"], found["accuracy"]),
        *(
            (f"accuracy on group {k}", then, now)
            for k, (then, now) in enumerate(
                zip(recorded["group_accuracies"], found["group_accuracies"], strict=True)
            )
        ),
    ]
    for name, then, now in pairs:
        tested = then is not None and now is not None
        if not (math.isclose(then, now, abs_tol=1e-9) if tested else then is now):
            return f"{name} {shown(then)}", shown(now)
    matrix = recorded.get("confusion_matrix")  # published results are without
    if matrix is not None and matrix != found["confusion_matrix"]:
        return "another confusion matrix", "its own"
    return None
