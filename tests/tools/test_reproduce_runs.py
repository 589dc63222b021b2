"""The order in which the runs of a grid train, and where their phase 0 comes from."""

import os
import signal
import types

import numpy as np
import pytest

from mnemonics_tf.errors import UserError
from mnemonics_tf.run.files import write_arrays, write_json
from mnemonics_tf.run.interruption import EXIT_STATUS
from tests.tools.reproduce_grid import SCHEDULE, grid
from tools import reproduce_runs
from tools.reproduce_runs import (
    Signals,
    Trainer,
    check_phase0_from,
    find_phase0,
    phase0_of,
    train_all,
)


class FakeProcess:
    """Ends when told to."""

    def __init__(self):
        self.status = None
        self.signals = []

    def poll(self):
        return self.status

    wait = poll

    def send_signal(self, number):
        self.signals.append(number)


class Story:
    """Trains a grid whose processes do what the test says, a turn of the loop at a time.

    Args:
        runs: of the grid.
        steps: called one after the other, each when the loop sleeps.
        given: as for `train_all`.
    """

    def __init__(self, runs, steps, monkeypatch, jobs=2, given=()):
        self.processes, self.donors, self.finished = {}, {}, []
        self.started = []
        steps = iter(steps)
        monkeypatch.setattr(reproduce_runs.time, "sleep", lambda _: next(steps)(self))
        self.signals = Signals()
        self.failed = train_all(
            runs,
            self.start,
            jobs=jobs,
            given=given,
            signals=self.signals,
            finished=self.finished.append,
        )
        assert next(steps, None) is None, "the story ended early"

    def start(self, run, phase0_from):
        self.started.append(run)
        self.donors[run] = phase0_from
        self.processes[run] = FakeProcess()
        return self.processes[run]

    @property
    def running(self):
        return [run for run in self.started if self.processes[run].status is None]

    def end(self, run, status=0):
        self.processes[run].status = status


def train_phase0(run, method=None):
    """Leaves what a run leaves once it has trained phase 0."""
    groups = {
        "protocol": {"dataset": run.place.dataset, "seed": run.seed},
        "training": {"method": method or run.cell.trained_as},
    }
    write_json(run.directory.settings, groups)
    run.directory.base_model.parent.mkdir(parents=True)
    run.directory.base_model.touch()


def test_runs_wait_for_the_phase_0_they_share(tmp_path, monkeypatch):
    lwf, bic, lucir = (grid(tmp_path, methods=[name])[0] for name in ("lwf", "bic", "lucir"))
    other_seed = grid(tmp_path, methods=["lwf"], seeds=(1,))[0]

    def first(story):  # bic has the classifier of lwf, and waits; lucir has another
        assert story.running == [lwf, lucir]
        story.end(lucir)

    def second(story):  # another seed is another phase 0
        assert story.running == [lwf, other_seed]
        story.end(other_seed)

    def third(story):
        assert story.running == [lwf]
        train_phase0(lwf)

    def fourth(story):
        assert story.running == [lwf, bic]
        story.end(lwf)
        story.end(bic)

    story = Story([lwf, bic, lucir, other_seed], [first, second, third, fourth], monkeypatch)
    assert story.donors == {lwf: None, lucir: None, other_seed: None, bic: lwf.directory.root}
    assert story.failed == []
    assert story.finished == [lucir, other_seed, lwf, bic]


def test_a_run_that_has_its_phase_0_waits_for_no_one(tmp_path, monkeypatch):
    first, second, *_ = grid(tmp_path, methods=["lwf"])
    train_phase0(second)

    def both(story):
        assert story.running == [first, second]
        story.end(first)
        story.end(second)

    story = Story([first, second], [both], monkeypatch)
    assert story.donors == {first: second.directory.root, second: None}


def test_one_job_trains_one_run_at_a_time(tmp_path, monkeypatch):
    runs = grid(tmp_path, table="2")
    train_phase0(runs[0])

    def one(story):
        (run,) = story.running
        story.end(run)

    assert Story(runs, [one] * 6, monkeypatch, jobs=1).finished == runs


def test_a_failure_is_reported_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    runs = first, second, third = grid(tmp_path, methods=["lwf"])[:3]

    def fail(story):  # without a phase 0: the next one trains it
        assert story.running == [first]
        story.end(first, 2)

    def succeed(story):
        assert story.running == [second]
        train_phase0(second)

    def end(story):
        assert story.running == [second, third]
        story.end(second)
        story.end(third)

    story = Story(runs, [fail, succeed, end], monkeypatch)
    assert (story.failed, story.finished) == ([first], [second, third])
    printed = capsys.readouterr().out
    assert f"failed with status 2: {first.name}" in printed
    assert str(reproduce_runs.printed(first)) in printed


def test_a_signal_is_passed_on_once_and_nothing_new_starts(tmp_path, monkeypatch, capsys):
    lwf, second, *_ = grid(tmp_path, methods=["lwf"])
    lucir = grid(tmp_path, methods=["lucir"])[0]
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def stop(story):
        story.signals.listen()
        os.kill(os.getpid(), signal.SIGTERM)

    def wait(story):
        train_phase0(lwf)  # second could start now
        story.end(lwf, EXIT_STATUS)

    def end(story):
        assert story.running == [lucir]
        story.end(lucir)

    try:
        story = Story([lwf, lucir, second], [stop, wait, end], monkeypatch)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert story.started == [lwf, lucir]
    assert [story.processes[run].signals for run in story.started] == [[signal.SIGTERM]] * 2
    assert (story.signals.requested, story.failed, story.finished) == (True, [], [lucir])
    assert f"stopped: {lwf.name}" in capsys.readouterr().out


def test_phase_0_comes_from_here_or_from_what_is_given(tmp_path):
    lwf, lucir = (grid(tmp_path, methods=[name])[0] for name in ("lwf", "lucir"))
    elsewhere = {
        method: grid(tmp_path / "elsewhere" / method, methods=[method])[0]
        for method in ("lucir", "bic")
    }
    for run in elsewhere.values():
        train_phase0(run)
    given = check_phase0_from([str(run.directory.root) for run in elsewhere.values()])
    assert find_phase0(lwf, []) is None
    assert find_phase0(lwf, given) == elsewhere["bic"].directory.root
    assert find_phase0(lucir, given) == elsewhere["lucir"].directory.root
    seed_1 = grid(tmp_path, methods=["lwf"], seeds=(1,))[0]
    assert find_phase0(seed_1, given) is None

    joint = grid(tmp_path, methods=["joint"])[0]
    train_phase0(joint)
    assert find_phase0(lwf, given) == joint.directory.root
    assert find_phase0(joint, []) is None  # not its own


def test_all_seeds_may_share_a_phase_0(tmp_path):
    one, other = grid(tmp_path, methods=["lwf"], seeds=(0, 1), share=True)[::4]
    assert (one.seed, other.seed) == (0, 1)
    train_phase0(one)
    assert find_phase0(other, []) == one.directory.root
    # What took its model from a run of another seed offers that seed's.
    train_phase0(other)
    write_arrays(other.directory.base_model, {"seed": np.array(0)})
    assert phase0_of(other.directory) == ("cifar100", "linear", 0)
    third = grid(tmp_path, methods=["lwf"], seeds=(1,))[1]
    assert find_phase0(third, []) is None
    os.remove(other.directory.base_model)
    os.mkfifo(other.directory.base_model)  # waits for no writer; the settings tell
    assert phase0_of(other.directory) == ("cifar100", "linear", 1)


def test_directories_without_a_phase_0_are_refused(tmp_path):
    run = grid(tmp_path, methods=["lwf"])[0]
    write_json(run.directory.settings, {})
    for path in (tmp_path / "nothing", run.directory.root):
        with pytest.raises(UserError, match=r"--phase0_from=.*base_model\.npz"):
            check_phase0_from([str(path)])


@pytest.mark.parametrize(("jobs", "threads"), [(1, None), (2, "2"), (3, "1"), (8, "1")])
def test_jobs_share_the_cores(tmp_path, monkeypatch, jobs, threads):
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    monkeypatch.setattr(reproduce_runs, "cores", lambda: 4)
    given = {}

    def popen(command, *, env, **_):
        given.update(command=command, threads=env.get("TF_NUM_INTRAOP_THREADS"))

    fake = types.SimpleNamespace(Popen=popen, DEVNULL=None, STDOUT=None)
    monkeypatch.setattr(reproduce_runs, "subprocess", fake)
    run = grid(tmp_path, methods=["icarl"])[0]
    Trainer(SCHEDULE, "DIR", jobs)(run, tmp_path / "donor")
    assert given["threads"] == threads
    assert {*SCHEDULE, "--method=lwf", "--data_dir=DIR", "--seed=0"} <= set(given["command"])
    assert f"--phase0_from={tmp_path / 'donor'}" in given["command"]
