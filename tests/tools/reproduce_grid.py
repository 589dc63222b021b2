"""Grids of runs for the tests of the tables."""

import pathlib

from mnemonics_tf.run.files import write_json
from tools.reproduce_cells import cells
from tools.reproduce_results import Place, Run

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCHEDULE = ("--base_epochs=2", "--epochs=1", "--finetune_epochs=3")


def grid(
    tmp_path, table="1", methods=(), seeds=(0,), published=None, schedule=SCHEDULE, share=False
):
    place = Place("cifar100", schedule, tmp_path / "runs", published, share)
    return [Run(place, cell, 5, seed) for seed in seeds for cell in cells(table, methods)]


def named(runs, name, seed=0):
    (run,) = (run for run in runs if run.cell.name == name and run.seed == seed)
    return run


def write_results(path, run, accuracies, **changed):
    """Writes what a run of the grid would: of each head, an average accuracy."""
    cell = run.cell
    training = {"method": cell.trained_as, "base_epochs": 2, "epochs": 1}
    training["finetune_epochs"] = 3 if cell.finetune else 0
    heads = {
        head: {"average_accuracy": mean, "forgetting": mean / 2, "phase_accuracies": [0.9, mean]}
        for head, mean in accuracies.items()
    }
    phase = {"heads": {head: {"confusion_matrix": [[1]]} for head in accuracies}}
    settings = {
        "protocol": {"dataset": "cifar100", "num_phases": 5, "seed": run.seed},
        "model": {"weight_transfer": cell.transfer},
        "outer": {"max_shift": 1.0},
        "training": {**training, "finetune_old_classes": True, **changed},
    }
    phases = [phase | {"seconds": {"train": seconds}} for seconds in (600, 60, 120, 0, 0, 0)]
    write_json(path, {"summary": heads, "settings": settings, "phases": phases})


def write_local(run, classifier, nme=0.0, **changed):
    write_results(run.directory.results, run, {"classifier": classifier, "nme": nme}, **changed)
