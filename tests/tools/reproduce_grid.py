"""Grids of runs for the tests of the tables."""

import pathlib

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
