"""results.json: accuracy matrix, every metric, the protocol's fingerprint, times; and its table."""

import hashlib
import json
import logging
import pathlib
from typing import Any

import numpy as np

from mnemonics_tf.data.protocol import ClassIncrementalProtocol
from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluation import metrics
from mnemonics_tf.evaluation.evaluator import HEADS
from mnemonics_tf.run.files import read_json
from mnemonics_tf.settings import Settings

_LOGGER = logging.getLogger("mnemonics_tf")


def protocol_fingerprint(settings: Settings, protocol: ClassIncrementalProtocol) -> dict[str, Any]:
    """Returns what two runs must share to be compared, and a hash of it."""
    facts = {
        "dataset": settings.protocol.dataset,
        "class_order_hash": protocol.order_hash,
        "base_classes": protocol.base_classes,
        "num_phases": protocol.num_phases,
        "exemplars_per_class": settings.exemplar.exemplars_per_class,
        "exemplars_total": settings.exemplar.exemplars_total,
        "seed": settings.protocol.seed,
    }
    wanted = settings.exemplar
    in_bytes = {
        name: value
        for name in ("exemplar_bytes_per_class", "exemplar_bytes_total")
        if (value := getattr(wanted, name))
    }
    if in_bytes:
        facts = {**facts, "exemplars_per_class": None, **in_bytes}
    return {**facts, "hash": hash_of(facts)}


def hash_of(facts: Any) -> str:
    """Returns a short hash of plain JSON values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def data_id(contents: dict[str, Any]) -> str | None:
    """Returns a short hash of what results.json tells of the data: other data have another.

    None where it tells neither the classes' names nor digests, as in the first versions.
    """
    facts = {name: contents.get(name) for name in ("class_names", "data_digests")}
    return hash_of(facts)[:8] if any(facts.values()) else None


def summarize(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns, for each head, the metrics over the phases finished so far.

    Args:
        records: one a phase, as phase.json holds them.
    """
    summary = {}
    for head in HEADS:
        accuracies = [record["heads"][head]["accuracy"] for record in records]
        matrix = [record["heads"][head]["group_accuracies"] for record in records]
        summary[head] = {
            "phase_accuracies": accuracies,
            "accuracy_matrix": matrix,
            "average_accuracy": metrics.average_accuracy(accuracies),
            "forgetting": metrics.forgetting(matrix),
            "last_accuracy": accuracies[-1],
            "mean_forgetting": metrics.mean_forgetting(matrix),
            "backward_transfer": metrics.backward_transfer(matrix),
            **_old_and_new(records, head),
            "top5_accuracies": [record["heads"][head].get("top5_accuracy") for record in records],
        }
    return summary


def _old_and_new(records: list[dict[str, Any]], head: str) -> dict[str, list[float | None]]:
    """Returns accuracies on old and on new classes by phase; null where no matrix tells them."""
    old, new = [], []
    num_old = 0
    for record in records:
        matrix = record["heads"][head].get("confusion_matrix")
        pair = metrics.old_new_accuracy(np.array(matrix), num_old) if matrix else (None, None)
        old.append(pair[0])
        new.append(pair[1])
        num_old = record["num_seen"]
    return {"old_accuracies": old, "new_accuracies": new}


def without_times(value: Any) -> Any:
    """Returns results, or a part of them, without what differs when the same run is run again."""
    if isinstance(value, dict):
        timed = ("seconds", "images_per_second")
        return {key: without_times(item) for key, item in value.items() if key not in timed}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def contents_written(file: pathlib.Path) -> dict[str, Any]:
    """Returns what results.json holds; nothing where there is none that is whole.

    All of it is made from the phases' records: a damaged one is written anew.
    """
    if not file.exists():
        return {}
    try:
        contents = read_json(file)
    except UserError as error:
        _LOGGER.warning("%s; it is made again from the records of the phases", error)
        return {}
    return contents if isinstance(contents, dict) else {}


def _last_top_5(summary: dict[str, Any]) -> float | None:
    accuracies: list[float | None] = summary.get("top5_accuracies") or [None]
    return accuracies[-1]


def table(results: dict[str, Any]) -> str:
    """Returns a run as a text table: both heads' accuracy by phase, average, forgetting."""

    def cell(value: float | None) -> str:
        return f"{'untested':>10}" if value is None else f"{value:>10.2%}"

    titles = [f"{head}{'*' * (head == results['prediction_head'])}" for head in HEADS]
    lines = ["phase  classes  " + "  ".join(f"{title:>10}" for title in titles)]
    for record in results["phases"]:
        columns = "  ".join(cell(record["heads"][head]["accuracy"]) for head in HEADS)
        lines.append(f"{record['phase']:>5}  {record['num_seen']:>7}  {columns}")
    rows = (
        ("average", "average_accuracy"),
        ("forgetting F", "forgetting"),
        ("mean forgetting", "mean_forgetting"),
        ("BWT", "backward_transfer"),
    )
    top = {head: _last_top_5(results["summary"][head]) for head in HEADS}
    if any(value is not None for value in top.values()):
        lines.append(f"{'last, top 5':<16}" + "  ".join(cell(top[head]) for head in HEADS))
    for title, key in rows:
        columns = "  ".join(cell(results["summary"][head][key]) for head in HEADS)
        lines.append(f"{title:<16}{columns}")
    lines.append("* the head that the method's own paper predicts with")
    return "\n".join(lines)
