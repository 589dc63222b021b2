"""Names that tell the runs of a report apart: what they were called, or the settings that matter.

A name holds three differences at most. All settings stand in a table of the report.
"""

import json
from collections.abc import Sequence
from typing import Any

from mnemonics_tf.reporting.runs import Run
from mnemonics_tf.settings import GROUP_OF

#: differences in a name
_MOST = 3
#: characters of a value in a name
_LONGEST = 28

#: what decides most comes first; the others follow in the order of the settings
_FIRST = (
    *("data", "phases_done", "exemplars_per_class", "exemplars_total", "codec", "mnemonics_start"),
    *("num_phases", "base_classes", "class_order_seed", "class_order", "phase_classes"),
    *(
        "backbone",
        "backbone_digest",
        "depth",
        "base_epochs",
        "epochs",
        "finetune_epochs",
        "max_shift",
        "objective",
    ),
    *("inner_scope", "inner_start", "outer_steps", "outer_learning_rate", "adjust_steps"),
)


def group_names(runs: Sequence[Run]) -> list[str]:
    """Returns a name for each run, which stands for its group; no two are equal.

    That is the name it was passed with, or method and exemplars; where several share it, with the
    differences that matter; and where these do not tell them apart, with the run's directory.

    Args:
        runs: the first of each group.
    """
    bases = [run.name or _base_name(run) for run in runs]
    names = list(bases)
    for base in set(bases):
        rows = [i for i, name in enumerate(bases) if name == base]
        for row, extra in zip(rows, _differences([runs[i] for i in rows]), strict=True):
            names[row] = ", ".join([base, *extra])
    return _unique(names, runs)


def _unique(names: list[str], runs: Sequence[Run]) -> list[str]:
    """Adds to names that are not unique where their runs lie."""
    return [
        f"{name}, {run.path}" if names.count(name) > 1 else name
        for name, run in zip(names, runs, strict=True)
    ]


def _base_name(run: Run) -> str:
    settings = run.settings
    if settings["method"] == "joint":
        return "joint (upper bound)"
    parts = [settings["method"], settings["exemplars"]]
    if settings["weight_transfer"]:
        parts.append("weight transfer")
    if settings["adjust_old_exemplars"]:
        parts.append("adjusted")
    return ", ".join(parts)


def _differences(runs: Sequence[Run]) -> list[list[str]]:
    """Returns for each run what it has otherwise than the others, the most important first."""
    facts = [run.identity | {"phases_done": len(run.phases)} for run in runs]
    differing = [
        name
        for name in sorted(set().union(*facts), key=_rank)
        if len({json.dumps(fact.get(name)) for fact in facts}) > 1
    ]
    return [
        [f"{name}={short(fact[name])}" for name in differing[:_MOST] if name in fact]
        for fact in facts
    ]


def _rank(name: str) -> tuple[int, int, str]:
    order = list(GROUP_OF)
    first = _FIRST.index(name) if name in _FIRST else len(_FIRST)
    return first, order.index(name) if name in order else len(order), name


def plain(value: Any) -> str:
    """Returns a setting's value as a flag has it."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def short(value: Any) -> str:
    """Returns the same on one line, cut where it is long."""
    text = " ".join(plain(value).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
