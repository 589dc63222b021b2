"""results.json: accuracy matrix, every metric, the protocol's fingerprint, times; and its table."""

import hashlib
import json
from typing import Any

from mnemonics_tf.data.protocol import ClassIncrementalProtocol
from mnemonics_tf.evaluation import metrics
from mnemonics_tf.evaluation.evaluator import HEADS
from mnemonics_tf.settings import Settings


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
    return {**facts, "hash": hash_of(facts)}


def hash_of(facts: Any) -> str:
    """Returns a short hash of plain JSON values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


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
        }
    return summary


def without_times(value: Any) -> Any:
    """Returns results, or a part of them, without what differs when the same run is run again."""
    if isinstance(value, dict):
        timed = ("seconds", "images_per_second")
        return {key: without_times(item) for key, item in value.items() if key not in timed}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def table(results: dict[str, Any]) -> str:
    """Returns a run as a text table: both heads' accuracy by phase, average, forgetting."""
    titles = [f"{head}{'*' * (head == results['prediction_head'])}" for head in HEADS]
    lines = ["phase  classes  " + "  ".join(f"{title:>10}" for title in titles)]
    for record in results["phases"]:
        columns = "  ".join(f"{record['heads'][head]['accuracy']:>10.2%}" for head in HEADS)
        lines.append(f"{record['phase']:>5}  {record['num_seen']:>7}  {columns}")
    for title, key in (("average", "average_accuracy"), ("forgetting", "forgetting")):
        columns = "  ".join(f"{results['summary'][head][key]:>10.2%}" for head in HEADS)
        lines.append(f"{title:<16}{columns}")
    lines.append("* the head that the method's own paper predicts with")
    return "\n".join(lines)
