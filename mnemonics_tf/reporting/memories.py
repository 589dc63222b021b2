"""What the exemplar memories of a report's groups hold, in images and in bytes."""

from collections.abc import Sequence
from typing import Any

from mnemonics_tf.reporting.groups import Group
from mnemonics_tf.reporting.tables import NOTHING, Table


def memories(groups: Sequence[Group]) -> Table | None:
    """Returns what was kept after the last phase, by group; None where no run notes it."""
    kept = [_kept(group) for group in groups]
    if not any(kept):
        return None
    return Table(
        "What the memory holds after the last phase",
        ("run", "budget", "exemplars", "of a class", "bytes", "of a class", "of an exemplar"),
        [
            (group.name, group.first.budget, *_cells(of_runs))
            for group, of_runs in zip(groups, kept, strict=True)
        ],
        (
            "Exemplars and bytes in all: mean over seeds; of a class: from the class that has "
            "least to the one that has most. Bytes: all that the codec stores, tables and headers "
            "too.",
        ),
    )


def _kept(group: Group) -> list[dict[str, Any]]:
    """Returns what each run noted of its last memory, if each noted all of it."""
    kept = [run.phases[-1].get("memory") or {} for run in group.runs]
    wanted = ("exemplars", "bytes", "exemplars_by_class", "bytes_by_class")
    return kept if all(memory.get(name) for memory in kept for name in wanted) else []


def _cells(kept: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    if not kept:
        return (NOTHING,) * 5
    exemplars, stored = (
        sum(memory[name] for memory in kept) / len(kept) for name in ("exemplars", "bytes")
    )
    return (
        f"{exemplars:,.0f}",
        _range([count for memory in kept for count in memory["exemplars_by_class"]]),
        f"{stored:,.0f}",
        _range([size for memory in kept for size in memory["bytes_by_class"]]),
        f"{stored / exemplars:,.0f}",
    )


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
