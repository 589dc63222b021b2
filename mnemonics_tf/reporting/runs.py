"""The runs of a report: reading them, grouping seeds, and what speaks against a comparison."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluation.evaluator import HEADS
from mnemonics_tf.evaluation.intervals import mean_and_interval
from mnemonics_tf.methods import METHODS
from mnemonics_tf.paths import user_path
from mnemonics_tf.reporting.contents import trouble
from mnemonics_tf.reporting.published import Choices
from mnemonics_tf.run import results
from mnemonics_tf.run.data_facts import DIGESTS
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import check_path, read_json
from mnemonics_tf.run.records import refuse_contradictions
from mnemonics_tf.settings import Settings, by_name

#: settings in which the runs of one group may differ
_SEEDS = ("seed", "exemplar_seed")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        path: as it was passed: a run directory or a results.json.
        contents: what results.json holds.
        directory: of the run; None for a bare results.json.
    """

    path: pathlib.Path
    contents: dict[str, Any]
    directory: RunDirectory | None

    @property
    def phases(self) -> list[dict[str, Any]]:
        """The records of the phases."""
        return self.contents["phases"]

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """The settings by name, whatever groups the run's version had.

        What it did not have yet had its default's effect.
        """
        return by_name(Settings().results_settings()) | by_name(self.contents["settings"])

    @property
    def seeds(self) -> tuple[Any, ...]:
        """The run's seeds."""
        return tuple(self.settings[name] for name in _SEEDS)

    @property
    def protocol(self) -> dict[str, Any]:
        """What runs must share to be compared: the fingerprint without the seed and the hash."""
        facts = self.contents["protocol"]
        return {name: value for name, value in facts.items() if name not in ("seed", "hash")}

    @property
    def data(self) -> str:
        """What stands for the classes and images it learned from."""
        return results.data_id(self.contents) or "unknown"

    @property
    def is_finished(self) -> bool:
        """Whether all phases of the protocol are done."""
        return len(self.phases) == self.protocol["num_phases"] + 1


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs with the same settings on the same data, with other seeds.

    Attributes:
        index: place in the report; decides colour and marker.
        name: shown everywhere.
        runs: at least one, by seed.
    """

    index: int
    name: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """The run with the lowest seed, which stands for the group where only one can."""
        return self.runs[0]

    @property
    def head(self) -> str:
        """The head that the method's own paper predicts with."""
        run = self.first
        if "prediction_head" in run.contents:
            return run.contents["prediction_head"]
        # Older runs do not record it.
        method = METHODS.get(run.settings["method"])  # code of the run's own is not imported
        return method.prediction_head if method else HEADS[0]

    @property
    def num_classes(self) -> list[int]:
        """Classes seen after each phase."""
        return [record["num_seen"] for record in self.first.phases]

    @property
    def choices(self) -> Choices:
        """What tells rows of the paper's tables apart."""
        run = self.first
        return Choices(
            method=run.settings["method"],
            exemplars=run.settings["exemplars"],
            transfer=bool(run.settings["weight_transfer"]),
            adjust=bool(run.settings["adjust_old_exemplars"]),
            finetune=bool(run.settings["finetune_epochs"]),
        )

    def accuracies(self, head: str) -> list[tuple[float, float | None]]:
        """Returns mean and interval of the accuracy on all seen classes after each phase."""
        return self._by_phase(head, lambda record: record["accuracy"])

    def base_accuracies(self, head: str) -> list[tuple[float, float | None]]:
        """Returns the same of the accuracy on the classes of phase 0."""
        return self._by_phase(head, lambda record: record["group_accuracies"][0])

    def _by_phase(self, head, figure) -> list[tuple[float, float | None]]:
        values = [[figure(record["heads"][head]) for record in run.phases] for run in self.runs]
        return [mean_and_interval(column) for column in zip(*values, strict=True)]

    def metric(self, head: str, name: str) -> tuple[float, float | None]:
        """Returns mean and interval of a number in `results.summarize`."""
        summaries = [results.summarize(run.phases)[head] for run in self.runs]
        return mean_and_interval([summary[name] for summary in summaries])


def load_runs(paths: Sequence[str]) -> list[Run]:
    """Reads runs, each once.

    Args:
        paths: of run directories or of files like results.json.

    Raises:
        UserError: if one can't be read, is not what a run writes, or contradicts itself.
    """
    runs, seen = [], set()
    for text in paths:
        check_path("RUN", text)
        path = user_path(text)
        directory = RunDirectory(path) if path.is_dir() else None
        file = directory.results if directory else path
        if file.resolve() in seen:
            continue
        seen.add(file.resolve())
        runs.append(Run(path, _read(file), directory))
        if directory:
            refuse_other_records(runs[-1])
    return runs


def _read(file: pathlib.Path) -> dict[str, Any]:
    if not file.exists():
        raise UserError(
            f"{file} does not exist: pass directories of runs, or the results.json of runs, that "
            "reached their last phase (see --last_phase)"
        )
    contents = read_json(file)
    wrong = trouble(contents)
    if wrong:
        raise UserError(f"{file} is not a results.json that this program can read: {wrong}")
    return contents


def refuse_other_records(run: Run) -> None:
    """Refuses metrics that are not those of the run's phases, as far as its directory has these.

    Raises:
        UserError: names the files that contradict each other.
    """
    directory = run.directory
    if directory is None:
        return
    for record in run.phases:
        path = directory.record(record["phase"])
        # As text, for NaN is not equal to itself.
        if path.exists() and json.dumps(read_json(path)) != json.dumps(record):
            raise UserError(
                f"{directory.results} and {path} contradict each other: one of them was changed, "
                "or the run went on; start its command again, which makes results.json from the "
                "records of the phases"
            )
    refuse_contradictions(directory, run.phases, str(directory.results))


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Returns runs grouped by everything but their seeds, in the order in which they came.

    Everything: settings, protocol, phases done, names of the classes, and digests of the images.
    """
    members: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps([_beside_seeds(run), run.protocol, len(run.phases)], sort_keys=True)
        members.setdefault(key, []).append(run)
    ordered = [tuple(sorted(group, key=_by_seed)) for group in members.values()]
    # One run a seed: a second one is no further sample, and `warnings` tells of it.
    ordered = [tuple({run.seeds: run for run in reversed(group)}.values()) for group in ordered]
    ordered = [tuple(reversed(group)) for group in ordered]
    names = _names([group[0] for group in ordered])
    return [Group(i, names[i], group) for i, group in enumerate(ordered)]


def _by_seed(run: Run) -> tuple[tuple[bool, int], ...]:
    """Returns a key that sorts runs by their seeds as numbers; older runs may lack one."""
    seeds = (seed if isinstance(seed, int) else None for seed in run.seeds)
    return tuple((seed is not None, seed or 0) for seed in seeds)


def _names(runs: Sequence[Run]) -> list[str]:
    """Returns names that tell runs apart: method and exemplars, then what differs beyond them."""
    names = [_base_name(run) for run in runs]
    for base in set(names):
        rows = [i for i, name in enumerate(names) if name == base]
        facts = [_beside_seeds(runs[i]) | {"phases_done": len(runs[i].phases)} for i in rows]
        differing = [
            key
            for key in sorted(set().union(*facts))
            if len({json.dumps(fact.get(key)) for fact in facts}) > 1
        ]
        for row, fact in zip(rows, facts, strict=True):
            extra = [f"{key}={_plain(fact.get(key))}" for key in differing]
            names[row] = ", ".join([names[row], *extra])
    return names


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


def _beside_seeds(run: Run) -> dict[str, Any]:
    """Returns the settings that the runs of a group share, and what stands for the data."""
    shared = {name: value for name, value in run.settings.items() if name not in _SEEDS}
    return {**shared, "data": run.data}


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def warnings(runs: Sequence[Run], groups: Sequence[Group]) -> list[str]:
    """Returns what speaks against comparing these runs, as sentences."""
    found = []
    protocols = [group.first.protocol for group in groups]
    for key in sorted(set().union(*protocols)):
        holders: dict[str, list[str]] = {}
        for group, protocol in zip(groups, protocols, strict=True):
            holders.setdefault(_plain(protocol.get(key)), []).append(group.name)
        if len(holders) > 1:
            sides = "; ".join(f"{value} ({' / '.join(names)})" for value, names in holders.items())
            found.append(f"Runs with different protocols: {key} is {sides}.")
    found += _other_data(groups)
    seeds = {group.index: {run.seeds for run in group.runs} for group in groups}
    if len({frozenset(values) for values in seeds.values()}) > 1:
        found.append("The groups do not have the same seeds.")
    kept = {id(run) for group in groups for run in group.runs}
    for run in runs:
        if id(run) not in kept:
            found.append(f"{run.path} repeats the settings and the seed of another run: left out.")
        elif not run.is_finished:
            found.append(
                f"{run.path} has {len(run.phases)} of {run.protocol['num_phases'] + 1} phases: its "
                "average and its forgetting are not those of the whole protocol."
            )
    return found


def _other_data(groups: Sequence[Group]) -> list[str]:
    """Returns a sentence that tells on which data the groups ran, if it was not the same."""
    holders: dict[str, list[Group]] = {}
    for group in groups:
        holders.setdefault(group.first.data, []).append(group)
    if len(holders) < 2:
        return []
    sides = [
        f"{data} ({_few_classes(members[0].first)}: {' / '.join(m.name for m in members)})"
        for data, members in holders.items()
    ]
    return [
        "Runs on different data, or on data of which an older version noted less: "
        f"{'; '.join(sides)}."
    ]


def _few_classes(run: Run) -> str:
    names = run.contents.get("class_names")
    if not names:
        return "classes not noted"
    images = "" if run.contents.get(DIGESTS) else ", images not noted"
    return ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "") + images
