"""Runs on tiny pictures in .npz files, and requests to learn more of them."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.npz import load_npz
from mnemonics_tf.data.source import DataSource
from mnemonics_tf.data.sources import open_source
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.extension.further_phase import Extension
from mnemonics_tf.extension.wanted import Request
from mnemonics_tf.settings import DataSettings, RunSettings, Settings

SETTINGS = {
    "dataset": "npz",
    "base_classes": 3,
    "num_phases": 1,
    "base_epochs": 1,
    "epochs": 1,
    "finetune_epochs": 0,
    "exemplars_per_class": 4,
}


def save(
    path: pathlib.Path, labels: Sequence[int], names: Sequence[str] = (), side: int = 8
) -> str:
    """Writes noise around a brightness that tells the class; a class's pictures are its own."""
    parts = {}
    for part, count in (("train", 9), ("test", 4)):
        images = [
            np.random.default_rng([label, count]).integers(0, 60, (count, side, side))
            + 37 * label % 190
            for label in labels
        ]
        parts[f"x_{part}"] = np.concatenate(images).astype(np.uint8)
        parts[f"y_{part}"] = np.repeat(labels, count)
    if names:
        parts["class_names"] = np.array(names)
    np.savez(path, **parts)
    return str(path)


def read_own(data_dir: str, download: bool, options: DataSettings) -> DataSource:
    """A data source of a user's own, which has a place of its own, too."""
    return load_npz(data_dir or OWN_PLACE)


#: where it looks if it is not told
OWN_PLACE = "own.npz"

#: as a flag names it
OWN_DATASET = f"{__name__}:{read_own.__name__}"


def settings_for(root: pathlib.Path, data_dir: str, **values: Any) -> Settings:
    run = RunSettings(run_dir=str(root), data_dir=data_dir)
    return Settings(run=run).changed(**{**SETTINGS, **values})


def train(settings: Settings) -> dict[str, Any]:
    return Experiment(settings, open_source(settings), tf.distribute.get_strategy()).run()


def extension(root: pathlib.Path, data_dir: str, **values: Any) -> Extension:
    """Values that are no settings are the request's."""
    own = {n: values.pop(n) for n in ("skip_known", "export", "run_data_dir") if n in values}
    passed = {"run_dir": str(root), **({"data_dir": data_dir} if data_dir else {}), **values}
    return Extension(Request(passed, **own), tf.distribute.get_strategy())


def learn(root: pathlib.Path, data_dir: str, **values: Any) -> dict[str, Any]:
    return extension(root, data_dir, **values).run()


def files_of(root: pathlib.Path) -> dict[str, bytes]:
    """All files but those that every process begins anew."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "tensorboard" not in path.parts
    }
