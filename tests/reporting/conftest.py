"""What the tests of reports share."""

import json
import pathlib

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "docs" / "results"


@pytest.fixture
def write(tmp_path):
    """Writes results as files and returns their paths."""

    def write_files(*runs) -> list[str]:
        paths = [tmp_path / f"{i}.json" for i in range(len(runs))]
        for path, run in zip(paths, runs, strict=True):
            path.write_text(json.dumps(run))
        return [str(path) for path in paths]

    return write_files
