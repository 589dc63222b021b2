"""The runs of a report, as they are read."""

import dataclasses
import functools
import json
import os
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

from mnemonics_tf.errors import UserError, printable
from mnemonics_tf.exemplars.budget import Budget
from mnemonics_tf.paths import user_path
from mnemonics_tf.reporting.contents import trouble
from mnemonics_tf.run import results
from mnemonics_tf.run.data_facts import noted_facts
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.effects import has_effect
from mnemonics_tf.run.files import check_path, read_json
from mnemonics_tf.run.learned import learned_phases
from mnemonics_tf.run.records import refuse_contradictions
from mnemonics_tf.settings import GROUP_OF, of_any_version

#: settings in which the runs of one group may differ
_SEEDS = ("seed", "exemplar_seed")


#: what a protocol notes of the memory, and what `Budget` calls it; the first that is set counts
_BUDGETS = {
    "exemplar_bytes_total": "bytes_total",
    "exemplar_bytes_per_class": "bytes_per_class",
    "exemplars_total": "total",
    "exemplars_per_class": "per_class",
}
#: settings that a protocol's fingerprint holds too
_NOTED = ("base_classes", "exemplars_per_class", "exemplars_total")


def seeds_in_words(seeds: tuple[Any, ...]) -> str:
    """Returns `Run.seeds` as readers are told them: `0`, or `0/2` with a seed of exemplars.

    With others in further phases: `0 (from phase 6: 3)`.
    """
    later = zip(seeds[2::3], seeds[3::3], seeds[4::3], strict=True)
    told = [f"from phase {phase}: {_pair_in_words(*pair)}" for phase, *pair in later]
    return _pair_in_words(*seeds[:2]) + f" ({', '.join(told)})" * bool(told)


def _pair_in_words(seed: Any, exemplar_seed: Any) -> str:
    own = isinstance(exemplar_seed, int) and exemplar_seed >= 0
    return f"{seed}/{exemplar_seed}" if own else str(seed)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        path: as it was passed: a run directory or a results.json.
        contents: what results.json holds.
        directory: of the run; None for a bare results.json.
        name: that it was passed with; empty: none.
    """

    path: pathlib.Path
    contents: dict[str, Any]
    directory: RunDirectory | None
    name: str = ""

    @property
    def phases(self) -> list[dict[str, Any]]:
        """The records of the phases."""
        return self.contents["phases"]

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """The settings by name, whatever version the run is of."""
        return of_any_version(self.contents["settings"])

    def settings_of(self, record: dict[str, Any]) -> dict[str, Any]:
        """Returns the settings of a phase by name: a further one may have had others than the run.

        Args:
            record: of the phase.
        """
        noted = record.get("learned", {}).get("settings")
        return of_any_version(noted) if noted else self.settings

    def kinds_of_exemplars(self, num_phases: int | None = None) -> tuple[str, ...]:
        """Returns how its exemplars were made, each kind once.

        Args:
            num_phases: of so many phases; None: of all.
        """
        records = self.phases[:num_phases]
        return tuple(dict.fromkeys(self.settings_of(record)["exemplars"] for record in records))

    @property
    def seeds(self) -> tuple[Any, ...]:
        """The run's seeds; then, where a further phase has others than the one before, these.

        Behind the phase's index each time.
        """
        found = before = tuple(self.settings[name] for name in _SEEDS)
        for record in self.phases:
            settings = self.settings_of(record)
            own = tuple(settings[name] for name in _SEEDS)
            if own != before:
                found, before = (*found, record["phase"], *own), own
        return found

    @property
    def phase0(self) -> tuple[Any, Any]:
        """Seed and precision that its Theta_0 was trained with, which another run may have done."""
        own = self._own_phase0
        names = ("phase0_seed", "phase0_mixed_precision")  # earlier versions note none or one
        seed, precision = (self.contents.get(*pair) for pair in zip(names, own, strict=True))
        return seed, precision

    @property
    def trained_phase0(self) -> bool:
        """Whether its Theta_0 is one that it trains itself, as far as is told."""
        return self.phase0 == self._own_phase0

    @property
    def _own_phase0(self) -> tuple[Any, Any]:
        return self.settings["seed"], self.settings["mixed_precision"]

    @property
    def identity(self) -> dict[str, Any]:
        """What runs of a group share.

        Settings with an effect, without seeds, the data's id, and that of a backbone from files.
        """
        shared = {
            name: value
            for name, value in self.settings.items()
            if name not in _SEEDS and has_effect(name, self.settings)
        }
        files = self.contents.get("backbone_digests")  # earlier versions noted none
        backbone = {"backbone_digest": results.hash_of(files)[:8]} if files else {}
        return {**shared, **self.learned_settings, **backbone, "data": self.data}

    @functools.cached_property
    def learned_settings(self) -> dict[str, Any]:
        """Settings with an effect that further phases had otherwise than the run, by phase."""
        found: dict[str, Any] = {}
        for record in self.phases:
            theirs = self.settings_of(record)
            found |= {
                f"{name} (phase {record['phase']})": value
                for name, value in theirs.items()
                if name not in _SEEDS
                and GROUP_OF.get(name) not in ("protocol", "data")  # the data's id holds them
                and has_effect(name, theirs)
                and value != self.settings.get(name)
            }
        return found

    @property
    def protocol(self) -> dict[str, Any]:
        """What runs must share to be compared: the fingerprint without the seed and the hash.

        What the run's version did not note there stands in its settings.
        """
        facts = {name: self.settings[name] for name in _NOTED} | self.contents["protocol"]
        return {name: value for name, value in facts.items() if name not in ("seed", "hash")}

    @property
    def course(self) -> dict[str, Any]:
        """The protocol without what the memory may hold: which classes come when."""
        return {name: value for name, value in self.protocol.items() if name not in _BUDGETS}

    @property
    def budget(self) -> str:
        """What the memory may hold after the last phase, in words."""
        name, value = self._budget
        return Budget(**{_BUDGETS[name]: value}).in_words

    @property
    def bytes_per_class(self) -> int | None:
        """Bytes that a class may take, or takes where exemplars are counted; None: not known."""
        name, value = self._budget
        if name == "exemplars_per_class":
            noted = self.phases[-1].get("memory") or {}
            return max(noted.get("bytes_by_class") or [], default=None)
        return value if name == "exemplar_bytes_per_class" else None

    @property
    def _budget(self) -> tuple[str, Any]:
        """The last phase's, which may have another than the run began with: name and value."""
        last = self.phases[-1]
        noted = self.settings_of(last) if "learned" in last else self.protocol
        name = next((name for name in _BUDGETS if noted.get(name)), "exemplars_per_class")
        return name, noted[name]

    @property
    def data(self) -> str:
        """What stands for the classes and images it learned from."""
        return results.data_id(self.contents) or "unknown"

    @property
    def is_finished(self) -> bool:
        """Whether all phases of the protocol are done."""
        return len(self.phases) == self.protocol["num_phases"] + 1


def load_runs(arguments: Sequence[str | os.PathLike]) -> list[Run]:
    """Reads runs, each once.

    Args:
        arguments: paths of run directories or of files like results.json, `NAME=` before those
            that have a name.

    Raises:
        UserError: if one can't be read, is not what a run writes, or contradicts itself.
    """
    runs: list[Run] = []
    names: dict[pathlib.Path, str] = {}
    for argument in arguments:
        name, path = _named(os.fspath(argument))
        directory = RunDirectory(path) if path.is_dir() else None
        file = directory.results if directory else path
        if file.resolve() in names:
            if names[file.resolve()] != name:
                raise UserError(
                    f"{printable(path)} is passed as {names[file.resolve()] or 'a run'!r} and as "
                    f"{name or 'a run'!r}: pass it once"
                )
            continue
        names[file.resolve()] = name
        if directory and not file.exists():
            raise UserError(_no_results(directory))
        runs.append(Run(path, _read(file), directory, name))
        if directory:
            refuse_other_records(runs[-1])
    return runs


def _named(argument: str) -> tuple[str, pathlib.Path]:
    """Returns name, empty if there is none, and path; what exists as it stands is a path."""
    check_path("RUN", argument)
    path = user_path(argument)
    name, equals, rest = argument.partition("=")
    if not equals or path.exists():
        return "", path
    name = " ".join(name.split())
    if not name or not rest:
        raise UserError(f"RUN={argument}: expected a path, or NAME=PATH")
    check_path("RUN", rest)
    return name, user_path(rest)


def _no_results(directory: RunDirectory) -> str:
    root = printable(directory.root)
    done = 0
    while directory.record(done).exists():
        done += 1
    if not done:
        below = [path.parent for path in sorted(directory.root.glob("*/results.json"))]
        if below and not directory.settings.exists():
            named = " ".join(shlex.quote(printable(path)) for path in below[:3])
            more = " ..." if len(below) > 3 else ""
            return f"{root} is no run, but holds some: pass them, {named}{more}"
        what = "no phase of it is done" if directory.settings.exists() else "it is no run"
        return f"{root} holds no results.json: {what}"
    facts = noted_facts(directory)
    learned = len(learned_phases(directory))
    if facts and done == len(facts["phases"]) + learned:
        commands = "its train command, or the last one of learn," if learned else "its command"
        return (
            f"{root} holds no results.json, although all its phases are done: start {commands} "
            f"again, which makes it from the records of phases 0 to {done - 1}"
        )
    return (
        f"{root} holds no results.json: it has not reached its last phase; its command with "
        f"--last_phase={done - 1} writes that of the phases up to {done - 1}, which are done, and "
        "goes on later without the flag"
    )


def _read(file: pathlib.Path) -> dict[str, Any]:
    if not file.exists():
        raise UserError(
            f"{printable(file)} does not exist: pass directories of runs, or the results.json of "
            "runs"
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
                "or the run went on; start its train command again, which makes results.json from "
                "the records of the phases"
            )
    refuse_contradictions(directory, run.phases, str(directory.results))
