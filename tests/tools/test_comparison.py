"""What the tools refuse before they train or draw."""

import os

import pytest

from mnemonics_tf.errors import UserError
from mnemonics_tf.run.files import check_folder, check_output
from mnemonics_tf.settings import RunSettings, Settings
from tests.reporting.report_runs import contents, write_run
from tools import plot_runs, show_learning
from tools.comparison import check_comparison, check_next_phase


@pytest.fixture
def check(tmp_path):
    """Checks a comparison of which some values are other ones."""

    def checked(output="figures.json", next_phases=(), exemplars_from="", **run):
        settings = Settings(RunSettings(**{"run_dir": str(tmp_path / "new"), **run}))
        check_comparison(settings, str(tmp_path / output), next_phases, exemplars_from)

    return checked


def test_a_sound_comparison(check, tmp_path):
    check(next_phases=["plain", "transfer"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"run_dir": ""}, "--run_dir is missing"),
        ({"run_dir": "a\0b"}, "--run_dir=.* line break or NUL"),
        ({"data_dir": "x" * 300}, "--data_dir=x.* is no path that can be used"),
        ({"run_dir": "."}, "exists already"),
        ({"output": "."}, "--output=.* is a folder: pass the name of a file"),
        ({"next_phases": ["transfer", "plane"]}, "'plane' is unknown; known are transfer, plain"),
        ({"exemplars_from": "nothing"}, "--exemplars_from=nothing has no exemplars of phase 0"),
    ],
)
def test_what_can_t_be_compared(check, values, told):
    with pytest.raises(UserError, match=told):
        check(**values)


def test_a_next_phase_that_there_is_not():
    check_next_phase([], 1)
    check_next_phase(["plain"], 2)
    with pytest.raises(UserError, match="--next_phase=plain: there is no phase after phase 0"):
        check_next_phase(["plain"], 1)


def test_places_that_nothing_can_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    check_output("--output", tmp_path / "file")
    check_folder("--output", tmp_path / "new" / "newer")
    for path, told in (("file/x/y.json", "file is no folder"), ("pipe", "is no regular file")):
        with pytest.raises(UserError, match=f"--output=.*{path}:? .*{told}|{told}"):
            check_output("--output", tmp_path / path)


@pytest.mark.parametrize("picture", ["x.gif", "folder.png"])
def test_pictures_that_can_t_be_written(tmp_path, picture, capsys):
    (tmp_path / "folder.png").mkdir()
    run = write_run(tmp_path / "run", contents(0, (0.9, 0.6)))
    place = str(tmp_path / picture)
    assert plot_runs.plot([f"a={run.root}"], place, "nme") == 2
    assert show_learning.show([f"a={run.root}"], place) == 2
    told = capsys.readouterr().err
    assert told.count("error: --output=") == 2
    assert "ends in .png or .svg" in told or "is a folder" in told


def test_curves_of_what_is_no_run(tmp_path, capsys):
    (tmp_path / "other.json").write_text('{"phases": 3}')
    for argument in ("a=missing", str(tmp_path / "other.json")):
        assert plot_runs.plot([argument], str(tmp_path / "x.png"), "nme") == 2
    assert plot_runs.plot([], str(tmp_path / "x.png"), "nme") == 2
    assert capsys.readouterr().err.count("error: ") == 3
    run = write_run(tmp_path / "run", contents(0, (0.9, 0.6)))
    assert plot_runs.plot([f"a={run.root}"], str(tmp_path / "x.png"), "nme") == 0
    assert (tmp_path / "x.png").stat().st_size
