"""What speaks against comparing the runs of a report: one line each."""

import json
from collections.abc import Sequence

from mnemonics_tf.errors import printable
from mnemonics_tf.reporting.groups import Group
from mnemonics_tf.reporting.names import plain
from mnemonics_tf.reporting.runs import Run
from mnemonics_tf.run.data_facts import DIGESTS

#: names in one line before it says how many more there are
_NAMED = 2
#: characters of a protocol's value in a line
_LONGEST = 40


def warnings(runs: Sequence[Run], groups: Sequence[Group]) -> list[str]:
    """Returns what speaks against comparing these runs, a line each.

    Args:
        runs: all that were passed.
        groups: of those that are shown.
    """
    found = [*_other_protocols(groups), *_other_data(groups)]
    if len({frozenset(run.seeds for run in group.runs) for group in groups}) > 1:
        found.append("The groups do not have the same seeds.")
    kept = {id(run) for group in groups for run in group.runs}
    for run in runs:
        path = printable(run.path)
        if id(run) not in kept:
            found.append(f"{path} repeats the settings and the seed of another run: left out.")
        elif not run.is_finished:
            of_all = f"{len(run.phases)} of {run.protocol['num_phases'] + 1} phases"
            found.append(f"{path} has {of_all}: average and F are not of the whole protocol.")
    return [" ".join(text.split()) for text in found]


def _other_protocols(groups: Sequence[Group]) -> list[str]:
    protocols = [group.first.protocol for group in groups]
    found = []
    for key in sorted(set().union(*protocols)):
        holders: dict[str, list[Group]] = {}
        for group, protocol in zip(groups, protocols, strict=True):
            holders.setdefault(json.dumps(protocol.get(key)), []).append(group)
        if len(holders) > 1:
            sides = [(plain(json.loads(value)), members) for value, members in holders.items()]
            found.append(f"Other protocols: {key} is {_sides(sides)}.")
    return found


def _other_data(groups: Sequence[Group]) -> list[str]:
    """Returns a line that tells on which data the groups ran, if it was not the same."""
    holders: dict[str, list[Group]] = {}
    for group in groups:
        holders.setdefault(group.first.data, []).append(group)
    if len(holders) < 2:
        return []
    sides = [(_few_classes(members[0].first), members) for members in holders.values()]
    return [f"Other classes or images: {_sides(sides)}."]


def _sides(sides: Sequence[tuple[str, Sequence[Group]]]) -> str:
    return "; ".join(f"{_shortened(value)} ({_listed(members)})" for value, members in sides)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _listed(groups: Sequence[Group]) -> str:
    names = [group.name for group in groups]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return " / ".join(names[:_NAMED]) + more


def _few_classes(run: Run) -> str:
    names = run.contents.get("class_names")
    if not names:
        return "classes not noted"
    images = "" if run.contents.get(DIGESTS) else ", images not noted"
    few = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "") + images
    return f"{run.data}: {few}"
