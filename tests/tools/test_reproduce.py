"""The command that reproduces a table, with a small grid to its end."""

import subprocess
import sys

import pytest

from tests.tools.reproduce_grid import ROOT

pytestmark = pytest.mark.slow


def reproduce(tmp_path, *arguments):
    return subprocess.run(
        [
            *(sys.executable, "-m", "tools.reproduce", "--dataset=digits", "--schedule=smoke"),
            *("--num_phases=1", "--methods=joint", f"--output={tmp_path / 'runs'}", *arguments),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_grid_is_trained_once(tmp_path):
    published, markdown = tmp_path / "published", tmp_path / "table.md"
    arguments = (f"--published={published}", f"--markdown={markdown}")
    first = reproduce(tmp_path, *arguments)
    assert first.returncode == 0, first.stderr
    assert "1 of 1 runs done, 0 left" in first.stdout
    (file,) = published.iterdir()
    assert "confusion_matrix" not in file.read_text()
    table = markdown.read_text()
    assert "| joint | 1 | 0 |" in table

    # Elsewhere, with the published results alone: nothing is left.
    again = reproduce(tmp_path / "elsewhere", *arguments)
    assert again.returncode == 0, again.stderr
    assert "started" not in again.stdout
    assert not (tmp_path / "elsewhere").exists()
    assert markdown.read_text() == table


def test_a_dry_run_starts_nothing(tmp_path):
    shown = reproduce(tmp_path, "--dry_run")
    assert shown.returncode == 0, shown.stderr
    assert "0 of 1 runs done, 1 left" in shown.stdout
    assert "-m mnemonics_tf.train --dataset=digits --base_classes=5" in shown.stdout
    assert not (tmp_path / "runs").exists()
