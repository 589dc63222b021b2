"""What the tools refuse before they train or draw."""

import os

import numpy as np
import pytest

from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.run.directory import RunDirectory
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
        ({"last_phase": 1}, "--last_phase=1 is in vain: a comparison neither stops nor exports"),
        ({"strategy": "mirrored"}, "--strategy=mirrored: a comparison uses one device"),
        ({"exemplars_from": "nothing"}, "--exemplars_from=nothing has no exemplars of phase 0"),
    ],
)
def test_what_can_t_be_compared(check, values, told):
    with pytest.raises(UserError, match=told):
        check(**values)


def test_exemplars_that_the_flags_do_not_describe(check, tmp_path):
    other = RunDirectory(tmp_path / "other")
    other.exemplars(0).parent.mkdir(parents=True)
    images, labels = np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 1])
    empty = ExemplarMemory.empty((8, 8, 1), codec="jpeg", quality=75)
    empty.extended(images, labels).save(other.exemplars(0))
    with pytest.raises(UserError, match=r"stored as jpeg of quality 75, and flags say pixels: pa"):
        check(exemplars_from=str(other.root))


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


@pytest.mark.parametrize(
    ("picture", "told"), [("x.gif", "ends in .png or .svg"), ("folder.png", "is a folder")]
)
def test_pictures_that_can_t_be_written(tmp_path, picture, told):
    (tmp_path / "folder.png").mkdir()
    run = write_run(tmp_path / "run", contents(0, (0.9, 0.6)))
    place = str(tmp_path / picture)
    with pytest.raises(UserError, match=f"--output=.*{told}"):
        plot_runs.plot([f"a={run.root}"], place, "nme")
    with pytest.raises(UserError, match=f"--output=.*{told}"):
        show_learning.show([f"a={run.root}"], place)


def test_curves_of_what_is_no_run(tmp_path):
    picture = tmp_path / "x.png"
    (tmp_path / "other.json").write_text('{"phases": 3}')
    for arguments, told in (
        (["a=missing"], "missing does not exist"),
        ([str(tmp_path / "other.json")], "is not a results.json"),
        ([], "pass runs, as NAME=RUN"),
    ):
        with pytest.raises(UserError, match=told):
            plot_runs.plot(arguments, str(picture), "nme")
        assert not picture.exists()
    run = write_run(tmp_path / "run", contents(0, (0.9, 0.6)))
    plot_runs.plot([f"a={run.root}"], str(picture), "nme")
    assert picture.stat().st_size


def test_runs_that_share_a_name_are_not_drawn_as_one(tmp_path):
    runs = [write_run(tmp_path / f"run{seed}", contents(seed, (0.9, 0.6))) for seed in range(2)]
    with pytest.raises(UserError, match="run0 and .*run1 are both called 'a': give each a name"):
        plot_runs.plot([f"a={run.root}" for run in runs], str(tmp_path / "x.png"), "nme")
