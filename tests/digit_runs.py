"""Whole runs on the handwritten digits, small enough for a processor."""

import dataclasses
import gc
import pathlib
import shutil
import weakref
from typing import Any

import pytest
import tensorflow as tf

from mnemonics_tf.data.access import PhaseData
from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.experiment import STAGES, Experiment
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_json, write_json
from mnemonics_tf.settings import (
    ExemplarSettings,
    ModelSettings,
    ProtocolSettings,
    RunSettings,
    Settings,
    TrainingSettings,
)

SETTINGS = Settings(
    RunSettings(checkpoint_minutes=0.0),
    ProtocolSettings(base_classes=8, num_phases=2),
    ModelSettings(weight_transfer=True),
    TrainingSettings(base_epochs=4, epochs=2, finetune_epochs=2),
    ExemplarSettings(exemplars_per_class=10),
)


def changed(settings: Settings, **groups: dict[str, Any]) -> Settings:
    """Returns settings with some values of some groups changed."""
    return dataclasses.replace(
        settings,
        **{
            group: dataclasses.replace(getattr(settings, group), **values)
            for group, values in groups.items()
        },
    )


def make(settings: Settings) -> Experiment:
    return Experiment(settings, load_digits(), tf.distribute.get_strategy())


def stages() -> list[str]:
    return list(STAGES)


@dataclasses.dataclass
class Run:
    """A run and what was seen of it from outside.

    Attributes:
        settings: its own.
        contents: what it returned.
        directory: its files.
        images: for every phase, how many training images it was given.
        alive: for every phase, how many earlier phases' training sets were alive when it began.
    """

    settings: Settings
    contents: dict[str, Any]
    directory: RunDirectory
    images: list[int]
    alive: list[int]

    def copied_to(self, root: pathlib.Path) -> "Run":
        """Returns it in another directory, to be damaged or taken on."""
        shutil.copytree(self.directory.root, root)
        settings = changed(self.settings, run={"run_dir": str(root)})
        return dataclasses.replace(self, settings=settings, directory=RunDirectory(root))


def run_watched(settings: Settings) -> Run:
    sets: list[weakref.ref] = []
    images, alive = [], []
    training_set = PhaseData.training_set

    def watched(data, phase):
        gc.collect()
        alive.append(sum(reference() is not None for reference in sets))
        found = training_set(data, phase)
        sets.append(weakref.ref(found))
        images.append(len(found))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PhaseData, "training_set", watched)
        contents = make(settings).run()
    return Run(settings, contents, RunDirectory(settings.run.run_dir), images, alive)


def files_of(root: pathlib.Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def other_pixels(directory: RunDirectory, part: str) -> None:
    """Makes a run one on images of the same names and numbers."""
    facts = read_json(directory.classes)
    facts["data_digests"][part] = "pixels-0"
    write_json(directory.classes, facts)
