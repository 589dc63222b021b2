"""Phases that a finished run learned afterwards: what is noted of each, and taking one back.

`phases/NN/learned.json` is written before such a phase begins. The phase belongs to the run once
its phase.json is there too; until then nothing else in the run directory knows of it.
"""

import dataclasses
import os
import pathlib
from typing import Any

from mnemonics_tf.data.source import PARTS
from mnemonics_tf.errors import UserError
from mnemonics_tf.run import schema
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import (
    check_held,
    flush_to_disk,
    read_json,
    remove_tree,
    user_error_on_disk_trouble,
    write_json,
)
from mnemonics_tf.settings import RunSettings, Settings, of_any_version

#: that a class can have: labels of images are numbers of 32 bits
LARGEST_ID = 2**31 - 1

_SHAPE = schema.fields(
    {
        "dataset": schema.text,
        "data_dir": schema.text,
        "classes": schema.sequence(schema.text, at_least=1),
        "original_ids": schema.sequence(schema.whole(-(2**31), LARGEST_ID), at_least=1),
        "training_images": schema.sequence(schema.whole(), at_least=1),
        "data_digests": schema.fields(dict.fromkeys(PARTS, schema.text)),
        "settings": schema.mapping(schema.mapping(schema.plain)),
        "export": schema.flag,
    }
)


@dataclasses.dataclass(frozen=True)
class LearnedPhase:
    """A phase that the run's protocol did not have.

    Attributes:
        index: of the phase.
        dataset: the kind of data source.
        data_dir: where its images were; empty where what read them needs none.
        classes: the new ones, by name.
        original_ids: the numbers that they got.
        training_images: of each.
        data_digests: of the images of these classes, by part.
        settings: what decided the phase's results, as `Settings.results_settings` has them.
        export: whether its model is exported; otherwise it is held back from servers.
    """

    index: int
    dataset: str
    data_dir: str
    classes: list[str]
    original_ids: list[int]
    training_images: list[int]
    data_digests: dict[str, str]
    settings: dict[str, dict[str, Any]]
    export: bool

    @property
    def place(self) -> str:
        """Where its images were; what read them, where that needed no directory."""
        return self.data_dir or self.dataset

    def facts(self) -> dict[str, Any]:
        """Returns what a record says of the phase."""
        facts = dataclasses.asdict(self)
        del facts["index"]
        return facts

    def settings_with(self, run: RunSettings) -> Settings:
        """Returns all settings of the phase.

        Args:
            run: where and how to run.

        Raises:
            UserError: if what is noted is not what this version writes.
        """
        file = f"phases/{self.index:02d}/learned.json"
        return Settings.from_results_settings(self.settings, run, file)

    def is_the_same_as(self, other: "LearnedPhase") -> bool:
        """Whether the other one learns the same, wherever its images lie by now."""
        return _what_is_learned(self) == _what_is_learned(other)

    def write(self, directory: RunDirectory) -> None:
        """Notes the phase in a run directory."""
        write_json(directory.learned(self.index), self.facts())


def _what_is_learned(phase: LearnedPhase) -> LearnedPhase:
    settings = {"": of_any_version(phase.settings)}
    return dataclasses.replace(phase, data_dir="", export=True, settings=settings)


def learned_phases(directory: RunDirectory) -> list[LearnedPhase]:
    """Returns the phases that a run learned beyond its protocol, in their order.

    Raises:
        UserError: if what is noted of one is damaged or lost.
    """
    return [phase for phase in _noted(directory) if directory.record(phase.index).exists()]


def unfinished_phase(directory: RunDirectory) -> LearnedPhase | None:
    """Returns the phase that a run has begun to learn; None if there is none.

    Raises:
        UserError: if what is noted of it is damaged.
    """
    noted = _noted(directory)
    return noted[-1] if noted and not directory.record(noted[-1].index).exists() else None


def _noted(directory: RunDirectory) -> list[LearnedPhase]:
    found = (path.parent.name for path in directory.root.glob("phases/*/learned.json"))
    indices = sorted(int(name) for name in found if name.isdecimal())
    begun = [i for i in indices[:-1] if not directory.record(i).exists()]
    if begun or indices != list(range(indices[0], indices[0] + len(indices)) if indices else []):
        raise UserError(
            f"{directory.root} has learned the phases {', '.join(map(str, indices))}, of which one "
            f"between them or its phase.json is lost{f' ({begun[0]})' if begun else ''}: put it "
            "back"
        )
    phases = (read_learned(directory, index) for index in indices)
    return [phase for phase in phases if phase]


def read_learned(directory: RunDirectory, index: int) -> LearnedPhase | None:
    """Returns what is noted of a phase that was learned afterwards; None if it was not.

    Raises:
        UserError: if that is damaged.
    """
    path = directory.learned(index)
    if not path.exists():
        return None
    facts = read_json(path)
    wrong = _SHAPE(facts)
    if not wrong:
        names = [field.name for field in dataclasses.fields(LearnedPhase)][1:]
        phase = LearnedPhase(index, **{name: facts[name] for name in names})
        if len(phase.classes) == len(phase.original_ids) == len(phase.training_images):
            return phase
        wrong = "classes, original_ids and training_images differ in length"
    raise UserError(
        f"{path} is damaged ({wrong.lstrip('/: ')}): put the right one back, or take the run from "
        "a copy"
    )


def recorded_data_dir(directory: RunDirectory) -> str:
    """Returns where the data of a run was, as its flags say; empty if they do not."""
    return _recorded(directory, "data_dir")


def recorded_model_name(directory: RunDirectory) -> str:
    """Returns the name that a run's models were to have, as its flags say; empty if they do not."""
    return _recorded(directory, "model_name")


def recorded_backbone_weights(directory: RunDirectory) -> str:
    """Returns the file that a run's own backbone began with, as its flags say; empty likewise."""
    return _recorded(directory, "backbone_weights")


def _recorded(directory: RunDirectory, name: str) -> str:
    try:
        # `splitlines` also cuts at what a path may hold: form feeds, U+0085, U+2028.
        lines = directory.flags.read_text("utf-8").split("\n") if directory.flags.is_file() else []
    except (OSError, UnicodeDecodeError):
        return ""
    found = [line.partition("=")[2] for line in lines if line.startswith(f"--{name}=")]
    return found[-1] if found else ""


def remove_phase(directory: RunDirectory, index: int) -> None:
    """Takes a learned phase out of a run, at once and for good."""
    _remove(directory.phase(index), directory.root / f".undone-{index}")


def finish_removal(directory: RunDirectory) -> int | None:
    """Finishes what a killed process left of `remove_phase`.

    Returns:
        The phase that is gone since, and has not been learned again; None if there is none.
    """
    gone = None
    for aside in sorted(directory.root.glob(".undone-*")):
        index = aside.name.removeprefix(".undone-")
        if not index.isdecimal():  # none of ours
            continue
        if not directory.phase(int(index)).exists():
            gone = int(index)
        with user_error_on_disk_trouble(aside):
            remove_tree(aside)
    return gone


def remove_export(published: pathlib.Path) -> None:
    """Takes an export away from servers, at once and for good."""
    _remove(published, published.with_name(f".undone-{published.name}"))


def _remove(path: pathlib.Path, aside: pathlib.Path) -> None:
    check_held(path)
    with user_error_on_disk_trouble(path):
        remove_tree(aside)  # what a killed process left
        if os.path.lexists(path):  # a link, even one that leads nowhere, goes too
            os.replace(path, aside)
            flush_to_disk(path.parent)
            remove_tree(aside)
