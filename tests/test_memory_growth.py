"""A run of many phases keeps nothing of the phases that have passed."""

import pathlib

import pytest

from tools.benchmark_phases import RUNS, measure, write_tiny

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]

#: that resident memory may grow by in a phase
MEGABYTES_A_PHASE = 2.0

#: when all is traced and the allocator has settled
SETTLED = 8


@pytest.mark.slow
@pytest.mark.exhaustive
def test_memory_does_not_grow_with_the_phases(tmp_path):
    data = tmp_path / "tiny.npz"
    write_tiny(data)
    arguments = (*RUNS["tiny, N = 25"], f"--data_dir={data}", "--last_phase=16")
    figures = measure(REPOSITORY, arguments, tmp_path)
    megabytes = figures["megabytes_by_phase"]
    assert len(megabytes) == 17
    growth = (megabytes[-1] - megabytes[SETTLED]) / (16 - SETTLED)
    assert growth <= MEGABYTES_A_PHASE, figures
