"""What speaks against comparing the runs of a report: one line each."""

import json
from collections.abc import Sequence

from mnemonics_tf.errors import printable
from mnemonics_tf.reporting.groups import Group
from mnemonics_tf.reporting.names import plain
from mnemonics_tf.reporting.runs import Run, seeds_in_words
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
    found = [*_other_courses(groups), *_other_budgets(groups), *_other_data(groups)]
    if len({frozenset(run.seeds for run in group.runs) for group in groups}) > 1:
        found.append("The groups do not have the same seeds.")
    found += [*_other_phase0(groups), *_shared_phase0(groups), *_files_not_noted(groups)]
    kept = {id(run) for group in groups for run in group.runs}
    for run in runs:
        path = printable(run.path)
        if id(run) not in kept:
            found.append(f"{path} repeats the settings and the seed of another run: left out.")
        elif not run.is_finished:
            of_all = f"{len(run.phases)} of {run.protocol['num_phases'] + 1} phases"
            found.append(f"{path} has {of_all}: average and F are not of the whole protocol.")
    return [" ".join(text.split()) for text in found]


def _other_courses(groups: Sequence[Group]) -> list[str]:
    courses = [group.first.course for group in groups]
    found = []
    for key in sorted(set().union(*courses)):
        values = [json.dumps(course.get(key)) for course in courses]
        if len(set(values)) > 1:
            told = [plain(json.loads(value)) for value in values]
            found.append(f"Other protocols: {key} is {_told(told, groups)}.")
    return found


def _other_budgets(groups: Sequence[Group]) -> list[str]:
    """Returns a line that tells the budgets, unless all allow the same bytes a class."""
    budgets = [group.first.budget for group in groups]
    allowed = {group.first.bytes_per_class for group in groups}
    if len(set(budgets)) < 2 or (len(allowed) == 1 and None not in allowed):
        return []
    return [f"Other memories: {_told(budgets, groups)}."]


def _other_data(groups: Sequence[Group]) -> list[str]:
    """Returns a line that tells on which data the groups ran, if it was not the same."""
    if len({group.first.data for group in groups}) < 2:
        return []
    told = [_few_classes(group.first) for group in groups]
    return [f"Other classes or images: {_told(told, groups)}."]


def _other_phase0(groups: Sequence[Group]) -> list[str]:
    """Returns a line that tells which differences, seed by seed, hold that of phase 0 too."""
    seeds = {
        group.index: [
            seeds_in_words(ours.seeds)
            for theirs, ours in groups[0].pairs(group)
            # What each trained itself differs by settings, which are told.
            if ours.phase0 != theirs.phase0 and not (ours.trained_phase0 and theirs.trained_phase0)
        ]
        for group in groups[1:]
    }
    members = [group for group in groups[1:] if seeds[group.index]]
    if not members:
        return []
    told = _told([f"of seed {', '.join(seeds[group.index])}" for group in members], members)
    return [
        f"Another phase 0 than that of {groups[0].name}: {told}; differences of these seeds are "
        "those of phase 0 too."
    ]


def _shared_phase0(groups: Sequence[Group]) -> list[str]:
    """Returns lines that tell of seeds that share their phase 0, so that it varies too little."""
    counts = [len({run.phase0 for run in group.runs}) for group in groups]
    pairs = list(zip(groups, counts, strict=True))
    all_of = [group for group, count in pairs if count == 1 < len(group.runs)]
    some = [group for group, count in pairs if 1 < count < len(group.runs)]
    found = []
    if all_of:
        found.append(
            f"One phase 0 for all seeds ({_listed(all_of)}): deviations and intervals over them "
            "say nothing of how phase 0 varies."
        )
    if some:
        found.append(
            f"One phase 0 for several seeds and others for the rest ({_listed(some)}): deviations "
            "and intervals over them say too little of how phase 0 varies."
        )
    return found


def _files_not_noted(groups: Sequence[Group]) -> list[str]:
    """Returns a line of runs that can't stand with those whose own backbone's files are noted."""
    noted = [group for group in groups if group.first.contents.get("backbone_digests")]
    backbones = {group.first.settings["backbone"] for group in noted}
    silent = [
        group
        for group in groups
        if any("backbone_digests" not in run.contents for run in group.runs)
        and group.first.settings["backbone"] in backbones
    ]
    if not silent:
        return []
    return [
        "Results of an earlier version, which did not note the files of a backbone, stand apart "
        f"from those that do: {_listed(silent)}."
    ]


def _told(values: Sequence[str], groups: Sequence[Group]) -> str:
    """Returns each value once, with the groups that have it."""
    holders: dict[str, list[Group]] = {}
    for value, group in zip(values, groups, strict=True):
        holders.setdefault(value, []).append(group)
    return "; ".join(f"{_shortened(value)} ({_listed(own)})" for value, own in holders.items())


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _listed(groups: Sequence[Group]) -> str:
    names = [group.name for group in groups]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return " / ".join(names[:_NAMED]) + more


def _few_classes(run: Run) -> str:
    names = run.contents.get("class_names")
    if not names:
        return f"{run.data}, classes not noted"
    images = "" if run.contents.get(DIGESTS) else ", images not noted"
    few = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "") + images
    return f"{run.data}: {few}"
