"""A run of many phases keeps nothing of the phases that have passed."""

import pathlib

import pytest

from tools.benchmark_phases import RUNS, measure, write_tiny

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]

#: that resident memory may grow by in a phase, from phase 3 on, when all is traced
MEGABYTES_A_PHASE = 2.0


@pytest.mark.slow
def test_memory_does_not_grow_with_the_phases(tmp_path):
    data = tmp_path / "tiny.npz"
    write_tiny(data)
    arguments = (*RUNS["tiny, N = 25"], f"--data_dir={data}")
    figures = measure(REPOSITORY, arguments, tmp_path)
    assert len(figures["megabytes_by_phase"]) == 26
    assert figures["megabytes_a_phase_from_phase_3"] <= MEGABYTES_A_PHASE, figures
