"""The training command, as it is called."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from mnemonics_tf import train
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.settings import Settings, all_fields

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
FLAGS = ("--base_classes=10", "--num_phases=0", "--base_epochs=1", "--exemplars_per_class=2")


def command(*arguments: str, program: str = "mnemonics_tf.train") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", program, *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def run(parse):
    """The command in this process: arguments -> exit status."""

    def run_main(*arguments: str) -> int:
        return train.main(parse(*arguments)(["train", *arguments]))

    return run_main


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[pathlib.Path, subprocess.CompletedProcess]:
    """A run of one phase and one epoch by the real command."""
    directory = tmp_path_factory.mktemp("train") / "run"
    return directory, command(*FLAGS, f"--run_dir={directory}")


def files_of(root: pathlib.Path) -> dict[pathlib.Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_run_tells_its_results_and_where_they_lie(finished):
    directory, done = finished
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((directory / "results.json").read_text())
    (phase,) = results["phases"]
    row = [line.split() for line in done.stdout.splitlines() if line.split()[:2] == ["0", "10"]]
    accuracies = [phase["heads"][head]["accuracy"] for head in ("classifier", "nme")]
    assert row == [["0", "10", *(f"{accuracy:.2%}" for accuracy in accuracies)]]
    for name in ("results.json", "export", "tensorboard"):
        assert str(directory / name) in done.stdout
    assert "phase 0/0 done" in (directory / "log.txt").read_text()
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_flags_of_a_run_are_kept_and_can_be_read(finished, run, capsys):
    directory, _ = finished
    before = (directory / "results.json").read_bytes()
    assert run(f"--flagfile={directory / 'flags.txt'}") == 0
    assert "phase 0 is done already" in capsys.readouterr().out
    assert (directory / "results.json").read_bytes() == before


@pytest.mark.slow
def test_other_settings_in_the_same_directory(finished, run, capsys):
    directory, _ = finished
    before = files_of(directory)
    assert run(*FLAGS, "--temperature=3", f"--run_dir={directory}") == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {directory} holds a run with other settings")
    assert "--temperature was 2.0, is 3.0" in captured.err
    assert captured.err.count("\n") == 1
    assert files_of(directory) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_phases=3"], "--num_phases=3 does not divide"),
        (["--method=bic", "--exemplars_per_class=1"], "--method=bic holds out 1 images"),
        (["--phase0_from=nowhere"], "--phase0_from=nowhere holds no trained model"),
        (["--epochs=0"], "--epochs=0: pass a number from 1 up"),
        (["--dataset=cifar100", "--data_dir=/nonexistent"], "/nonexistent"),
        (["cifar100"], "unexpected argument 'cifar100'"),
        (["--phase0_from=a\n--download"], r"--phase0_from=a\n--download: a line break"),
        (["--dataset=npz", "--data_dir=~nobody-of-this-name/x"], "there is no such home"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing_behind(run, tmp_path, capsys, arguments, message):
    assert run(*arguments, f"--run_dir={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_runs")
def test_after_a_loss_that_is_not_finite_the_advice_can_be_followed(run, tmp_path, capsys):
    flags = (*FLAGS, "--base_epochs=2")
    assert run(*flags, "--learning_rate=1e9", f"--run_dir={tmp_path / 'run'}") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "lower the learning rate, and pass another --run_dir with it" in error
    assert run(*flags, "--learning_rate=0.1", f"--run_dir={tmp_path / 'run'}") == 2
    assert run(*flags, "--learning_rate=0.1", f"--run_dir={tmp_path / 'other'}") == 0


@pytest.mark.slow
def test_a_run_directory_below_a_home(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "my home"))
    monkeypatch.chdir(tmp_path)
    assert run(*FLAGS, "--run_dir=~/[a]") == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "my home" / "[a]" / "results.json").exists()
    assert f"tensorboard --logdir '{tmp_path}/my home/[a]/tensorboard'" in printed
    assert "takes the path of the exports for a pattern" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["my home"]


def test_a_run_directory_that_is_a_file(run, tmp_path, capsys):
    (tmp_path / "run").write_text("mine")
    assert run(*FLAGS, f"--run_dir={tmp_path / 'run'}") == 2
    assert "pass a place that can be written as --run_dir" in capsys.readouterr().err
    assert (tmp_path / "run").read_text() == "mine"


def test_a_damaged_settings_file(run, tmp_path, capsys):
    directory = RunDirectory(tmp_path / "run")
    directory.root.mkdir()
    directory.settings.write_text("{")
    assert run(*FLAGS, f"--run_dir={directory.root}") == 2
    assert "settings.json is damaged" in capsys.readouterr().err


def test_help_lists_every_flag(parse):
    listed = parse().module_help("mnemonics_tf.train")
    names = [field.name for _, field, _ in all_fields(Settings())]
    assert names
    for name in names:
        assert f"--{name}:" in listed or f"--[no]{name}:" in listed, name
    told = " ".join(listed.split())
    for values in ("pixels, webp_lossless, jpeg", "unrolled_training, class_means, anchored"):
        assert f"Values: {values}; or one of your own" in told


def test_an_interrupt_ends_in_one_line(parse, monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    parse()
    monkeypatch.setattr(train, "train", interrupted)
    assert train.main(["train"]) == 130
    line = "stopped at once; the same command goes on from the last checkpoint\n"
    assert capsys.readouterr().err == line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "flag", "names"),
    [
        ("train", "--helpshort", ("run_dir", "data_dir", "method")),
        *(
            pytest.param(
                one, "--help", ("run_dir", "phase", "data_dir"), marks=pytest.mark.exhaustive
            )
            for one in ("evaluate", "export")
        ),
    ],
)
def test_a_program_shows_its_flags(program, flag, names):
    done = command(flag, program=f"mnemonics_tf.{program}")
    told = done.stdout + done.stderr
    assert f"python -m mnemonics_tf.{program}" in told
    for name in names:
        assert f"--{name}:" in told


def test_a_place_that_digits_are_not_read_from_is_told_of(tmp_path, monkeypatch, capsys):
    class StoppedError(Exception):
        pass

    def stop(wanted):
        raise StoppedError

    monkeypatch.setattr(train, "open_source", stop)
    for data_dir in ("", "photos"):
        with pytest.raises(StoppedError):
            train.train(Settings().changed(run_dir=str(tmp_path / "run"), data_dir=data_dir))
        told = "".join(capsys.readouterr())
        assert ("--data_dir is not read" in told) == bool(data_dir)
