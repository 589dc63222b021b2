"""Runs for the tests of reports: what results.json holds, and the files of a run's directory."""

import copy
import pathlib

import numpy as np

from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import write_json
from mnemonics_tf.settings import Settings


def contents(seed=0, accuracies=(0.9, 0.6), **changes) -> dict:
    """What results.json holds of a run with a phase for each accuracy, 5 classes each.

    Changes are `group__name=value`.
    """
    settings = copy.deepcopy(Settings().results_settings())
    settings["protocol"] |= {"seed": seed, "num_phases": 1}
    for name, value in changes.items():
        group, key = name.split("__")
        settings[group][key] = value
    phases = [
        {
            "phase": i,
            "num_seen": 5 * (i + 1),
            "heads": {
                head: {"accuracy": accuracy, "group_accuracies": [accuracy] * (i + 1)}
                for head in ("classifier", "nme")
            },
            "stages": {},
            "seconds": {"train": 60.0 * (i + 1), "evaluate": 1.0},
        }
        for i, accuracy in enumerate(accuracies)
    ]
    return {
        "prediction_head": "classifier",
        "protocol": {
            "dataset": settings["protocol"]["dataset"],
            "num_phases": settings["protocol"]["num_phases"],
            "exemplars_per_class": settings["exemplar"]["exemplars_per_class"],
            "exemplars_total": 0,
            "seed": seed,
            "hash": f"hash{seed}",
        },
        "settings": settings,
        "phases": phases,
    }


def with_learned(run: dict, **changes) -> dict:
    """A run whose last phase was learned afterwards, with other settings."""
    settings = copy.deepcopy(run["settings"])
    for name, value in changes.items():
        group, key = name.split("__")
        settings[group][key] = value
    run["phases"][-1]["learned"] = {"settings": settings}
    return run


def write_run(
    root: pathlib.Path, run: dict, per_class: int = 2, moved: int = 0, starts: bool = True
) -> RunDirectory:
    """Writes results.json and exemplars of 8 x 8 pixels, which moved by so many grey levels."""
    directory = RunDirectory(root)
    write_json(directory.results, run)
    first = 0
    for record in run["phases"]:
        labels = np.repeat(np.arange(record["num_seen"]), per_class)
        start = np.random.default_rng(0).integers(50, 200, (len(labels), 8, 8, 1), np.uint8)
        now = start + np.uint8(moved)
        ExemplarMemory(now, labels).save(directory.exemplars(record["phase"]))
        if moved and starts:
            new = labels >= first
            ExemplarMemory(start[new], labels[new]).save(directory.exemplar_starts(record["phase"]))
        first = record["num_seen"]
    return directory
