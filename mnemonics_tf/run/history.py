"""All that a finished run has learned, phase by phase, as its directory tells without its data."""

import dataclasses
import functools
from collections.abc import Sequence

from mnemonics_tf.data.protocol import ClassIncrementalProtocol, Phase
from mnemonics_tf.errors import UserError
from mnemonics_tf.run.data_facts import noted_facts
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.learned import LearnedPhase, learned_phases, unfinished_phase
from mnemonics_tf.run.resume import read_record, read_settings
from mnemonics_tf.settings import RunSettings, Settings


@dataclasses.dataclass(frozen=True)
class History:
    """What a run has learned.

    Attributes:
        directory: of the run.
        settings: of the run, which its protocol was learned with.
        names: of the classes of each phase of the protocol.
        ids: original ids of these.
        learned: the phases beyond the protocol, in their order.
        unfinished: the phase that was begun after them, if one was.
    """

    directory: RunDirectory = dataclasses.field(compare=False)
    settings: Settings
    names: tuple[tuple[str, ...], ...]
    ids: tuple[tuple[int, ...], ...]
    learned: tuple[LearnedPhase, ...]
    unfinished: LearnedPhase | None

    @property
    def num_phases(self) -> int:
        """How many phases are done."""
        return len(self.names) + len(self.learned)

    @property
    def base_names(self) -> list[str]:
        """The classes of the run's protocol."""
        return [name for phase in self.names for name in phase]

    @property
    def base_ids(self) -> list[int]:
        """The original ids of these."""
        return [c for phase in self.ids for c in phase]

    @property
    def known(self) -> list[str]:
        """All classes that the run knows."""
        return [*self.base_names, *(name for phase in self.learned for name in phase.classes)]

    @property
    def known_ids(self) -> list[int]:
        """The original ids of these."""
        return [*self.base_ids, *(c for phase in self.learned for c in phase.original_ids)]

    @property
    def last_settings(self) -> Settings:
        """The settings of the last phase."""
        if not self.learned:
            return self.settings
        return self.learned[-1].settings_with(self.settings.run)

    def without_last(self) -> "History":
        """Returns the history before the last learned phase."""
        return dataclasses.replace(self, learned=self.learned[:-1], unfinished=None)

    @functools.cached_property
    def base_protocol(self) -> ClassIncrementalProtocol:
        """The protocol as the run's settings ask for it."""
        wanted, ids = self.settings.protocol, sorted(self.base_ids)
        if wanted.phase_classes:
            return ClassIncrementalProtocol.from_phases(self.ids, ids)
        return ClassIncrementalProtocol(
            self.base_ids, wanted.base_classes, wanted.num_phases, original_ids=ids
        )

    def protocol(self, further: Sequence[LearnedPhase] = ()) -> ClassIncrementalProtocol:
        """Returns the protocol of all phases that are done.

        Args:
            further: phases that follow them.
        """
        learned = [phase.original_ids for phase in (*self.learned, *further)]
        if not learned:
            return self.base_protocol
        phases = [*self.ids, *learned]
        return ClassIncrementalProtocol.from_phases(
            phases, sorted(c for phase in phases for c in phase)
        )


def read_history(directory: RunDirectory, run: RunSettings) -> History:
    """Reads what a finished run has learned.

    Args:
        directory: of the run.
        run: settings of where and how it goes on.

    Raises:
        UserError: if there is no run, it is not finished, damaged, or too old to tell its classes.
    """
    directory.require()
    settings = Settings.from_results_settings(read_settings(directory), run)
    facts = noted_facts(directory)
    if facts is None:
        raise UserError(
            f"{directory.classes} is missing, which names the run's classes: put it back, or start "
            "its train command again with the version that began it"
        )
    left = [i for i in range(len(facts["phases"])) if not directory.record(i).exists()]
    if left:
        raise UserError(
            f"{directory.root} is not finished (phase {left[0]} of {len(facts['phases']) - 1} is "
            "not done): finish it with python -m mnemonics_tf.train first"
        )
    history = History(
        directory,
        settings,
        tuple(map(tuple, facts["phases"])),
        _ids(directory, facts["phases"]),
        tuple(learned_phases(directory)),
        unfinished_phase(directory),
    )
    noted = {phase.index: phase.original_ids for phase in history.learned}
    for phase in history.protocol().phases:
        ids = read_record(directory, phase).get("new_classes")
        if phase.index in noted and ids != noted[phase.index]:
            raise UserError(
                f"{directory.record(phase.index)} numbers its classes otherwise than "
                f"{directory.learned(phase.index)}: put the right files back"
            )
    _refuse_ambiguous(history)
    return history


def _ids(directory: RunDirectory, names: Sequence[Sequence[str]]) -> tuple[tuple[int, ...], ...]:
    """Returns the original ids of the classes of each phase, from its record."""
    found, seen = [], 0
    for index, classes in enumerate(names):
        phase = Phase(index, range(seen, seen + len(classes)), range(seen + len(classes)))
        seen = phase.num_seen
        record = read_record(directory, phase)
        ids = record.get("new_classes", [])
        if len(ids) != len(classes):
            raise UserError(
                f"{directory.record(index)} names {len(ids)} new classes and {directory.classes} "
                f"{len(classes)}: put the right files back"
            )
        found.append(tuple(ids))
    return tuple(found)


def _refuse_ambiguous(history: History) -> None:
    """Refuses phases that teach a class twice, by name or by number."""
    for listed in (history.known, history.known_ids):
        if len(set(listed)) == len(listed):
            continue
        raise UserError(
            f"{history.directory.root} names a class in two phases (classes.json, phase.json and "
            "learned.json): put the right files back"
        )
