"""The grid of a table, its figures, the order in which runs train, and a small grid to its end."""

import inspect
import os
import pathlib
import signal
import subprocess
import sys
import types

import pytest

from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluation.intervals import mean_and_interval
from mnemonics_tf.interruption import EXIT_STATUS
from mnemonics_tf.methods import METHODS
from mnemonics_tf.methods.base import Method
from mnemonics_tf.run_directory import read_json, write_json
from tools import reproduce_runs
from tools.reproduce_runs import Signals, Trainer, check_phase0_from, find_phase0, train_all
from tools.reproduce_table import TRAINED_AS, Place, Run, cells, rows, text_table, write_markdown

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCHEDULE = ("--base_epochs=2", "--epochs=1", "--finetune_epochs=3")


def grid(tmp_path, table="1", methods=(), seeds=(0,), published=None, schedule=SCHEDULE):
    place = Place("cifar100", schedule, tmp_path / "runs", published)
    return [Run(place, cell, 5, seed) for seed in seeds for cell in cells(table, methods)]


def named(runs, name, seed=0):
    (run,) = (run for run in runs if run.cell.name == name and run.seed == seed)
    return run


# Rows


@pytest.mark.parametrize(("table", "count"), [("1", 13), ("2", 6), ("ablation", 8)])
def test_every_row_stands_once(table, count):
    names = [cell.name for cell in cells(table)]
    assert len(names) == len(set(names)) == count


@pytest.mark.parametrize("method", ["lwf", "icarl", "bic", "lucir"])
def test_rows_of_table_1_add_the_plug_in_in_two_steps(method):
    plain, herding, ours = cells("1", [method])
    assert (plain.exemplars, plain.transfer, plain.adjust, plain.finetune) == ("herding", *3 * [0])
    assert "--noweight_transfer" in plain.flags()
    assert "--finetune_epochs=0" in plain.flags()
    assert (herding.exemplars, herding.transfer, herding.adjust) == ("herding", True, False)
    assert (ours.exemplars, ours.transfer, ours.adjust) == ("mnemonics", True, True)
    for cell in (herding, ours):
        assert "--weight_transfer" in cell.flags()
        assert "--finetune_epochs=0" not in cell.flags()
    assert plain.published("cifar100", 5)[0] is not None
    assert ours.published("cifar100", 5)[0] is not None
    # The paper has this step for LUCIR only, in its Table 2.
    assert (herding.published("cifar100", 5)[0] is not None) == (method == "lucir")


def test_methods_choose_rows():
    assert {cell.method for cell in cells("1", ["lwf", "joint"])} == {"lwf", "joint"}
    with pytest.raises(UserError, match="--methods=lwf,bic: table 2 has no row of 'lwf'.*lucir"):
        cells("2", ["lwf", "bic"])


@pytest.mark.parametrize(("method", "other"), TRAINED_AS.items())
def test_methods_that_share_runs_train_the_same(method, other):
    """Every member but the head is the very same; it is what the rows of iCaRL rest on."""
    members = {name for name in vars(Method) if not name.startswith("__")} - {"prediction_head"}
    assert members >= {"loss_parts", "configure", "classifier", "after_training"}
    for name in members:
        mine, theirs = (inspect.getattr_static(METHODS[key], name) for key in (method, other))
        assert mine is theirs, name


def test_icarl_shares_the_runs_of_lwf(tmp_path):
    runs = grid(tmp_path)
    for suffix in ("", " w/ herding", " w/ ours"):
        lwf, icarl = (named(runs, f"{method}{suffix}") for method in ("lwf", "icarl"))
        assert icarl.directory.root == lwf.directory.root
        assert "--method=lwf" in icarl.choices()
    assert len({run.name for run in runs}) == 13 - 3


# Figures


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
        "training": training | changed,
    }
    phases = [phase | {"seconds": {"train": seconds}} for seconds in (600, 60, 120)]
    write_json(path, {"summary": heads, "settings": settings, "phases": phases})


def write_local(run, classifier, nme=0.0, **changed):
    write_results(run.directory.results, run, {"classifier": classifier, "nme": nme}, **changed)


def test_rows_have_mean_interval_and_difference(tmp_path):
    runs = grid(tmp_path, methods=["lwf", "icarl"], seeds=(0, 1, 2))
    for seed, value in ((0, 0.50), (1, 0.53)):
        write_local(named(runs, "lwf", seed), value, nme=value + 0.1)
    table = {row.name: row for row in rows(runs)}
    assert list(table) == [cell.name for cell in cells("1", ["lwf", "icarl"])]

    lwf = table["lwf"]
    assert lwf.seeds == (0, 1)
    assert lwf.accuracy.mean == pytest.approx(51.5)
    assert lwf.accuracy.half_width == pytest.approx(mean_and_interval([50, 53])[1])
    assert (lwf.accuracy.published, lwf.accuracy.difference) == (49.59, "+1.91")
    assert (lwf.forgetting.published, lwf.forgetting.difference) == (43.36, "-17.61")
    assert lwf.last.mean == pytest.approx(51.5)
    assert lwf.minutes.mean == pytest.approx(3)  # without phase 0

    icarl = table["icarl"]
    assert (icarl.accuracy.mean, icarl.accuracy.published) == (pytest.approx(61.5), 57.12)
    assert (table["lwf w/ ours"].seeds, table["lwf w/ ours"].accuracy.ours) == ((), "-")
    assert table["lwf w/ ours"].accuracy.paper == "54.43"


def test_one_seed_has_no_interval(tmp_path):
    runs = grid(tmp_path, methods=["lucir"])
    write_local(named(runs, "lucir w/ herding"), 0.6)
    row = rows(runs)[1]
    assert (row.accuracy.ours, row.accuracy.paper, row.accuracy.difference) == (
        *("60.00", "63.39"),
        "-3.39",
    )


def test_text_and_markdown_say_the_same(tmp_path):
    runs = grid(tmp_path, methods=["icarl"], seeds=(0, 1))
    for run in runs:
        write_local(run, 0.1, nme=0.6 + run.seed / 100)
    write_markdown(tmp_path / "table.md", runs)
    text, markdown = text_table(runs), (tmp_path / "table.md").read_text()
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3
    assert len({line.count("|") for line in lines}) == 1
    assert "| icarl | 5 | 0, 1 | 60.50 ± 6.35 | 57.12 | +3.38 |" in markdown
    for written in (text, markdown):
        assert "60.50 ± 6.35" in written
        assert "icarl trains exactly as lwf does" in written
    assert "icarl trains" not in text_table(grid(tmp_path, methods=["lwf"]))


def test_published_results_count_and_grow(tmp_path):
    published = tmp_path / "published"
    runs = grid(tmp_path, methods=["lwf"], published=published)
    plain, herding, _ = runs
    write_results(published / f"{plain.name}.json", plain, {"classifier": 0.4, "nme": 0.5})
    write_local(herding, 0.3)
    assert [run.is_done() for run in runs] == [True, True, False]
    assert [run.is_done() for run in grid(tmp_path, methods=["lwf"])] == [False, True, False]
    assert rows(runs)[0].accuracy.mean == pytest.approx(40)

    before = (published / f"{plain.name}.json").read_bytes()
    for run in runs:
        run.publish()
    assert (published / f"{plain.name}.json").read_bytes() == before
    contents = read_json(published / f"{herding.name}.json")
    expected = read_json(herding.directory.results)
    assert contents["phases"][0]["heads"] == {"classifier": {}, "nme": {}}
    assert contents["summary"] == expected["summary"]
    assert len(list(published.iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "value"), [("epochs", 12), ("method", "bic"), ("finetune_epochs", 3)]
)
def test_results_of_another_schedule_are_refused(tmp_path, name, value):
    run = grid(tmp_path, methods=["lwf"], published=tmp_path / "published")[0]
    write_local(run, 0.3, **{name: value})
    with pytest.raises(UserError, match=f"results.json was made with --{name}={value}, but"):
        run.publish()
    assert not (tmp_path / "published").exists()


@pytest.mark.parametrize(
    ("row", "changed", "refused"),
    [
        ("lwf", {"adjust_learning_rate": 0.5, "outer_steps": 99}, None),
        ("lwf w/ ours", {"adjust_learning_rate": 0.5}, "adjust_learning_rate=0.5"),
        ("lwf w/ ours", {"outer_steps": 99}, "outer_steps=99"),
        ("lwf w/ herding", {"adjust_old_exemplars": True}, "adjust_old_exemplars=True"),
        ("lwf w/ ours", {"adjust_old_exemplars": False}, "adjust_old_exemplars=False"),
    ],
)
def test_only_settings_that_a_run_uses_must_be_those_of_the_schedule(
    tmp_path, row, changed, refused
):
    schedule = (*SCHEDULE, "--outer_steps=20", "--adjust_learning_rate=0.02")
    run = named(grid(tmp_path, methods=["lwf"], schedule=schedule), row)
    used = {"exemplars": run.cell.exemplars, "adjust_old_exemplars": run.cell.adjust}
    write_local(run, 0.3, **{"outer_steps": 20, "adjust_learning_rate": 0.02, **used, **changed})
    if refused is None:
        assert run.figures().average_accuracy == pytest.approx(30)
        return
    with pytest.raises(UserError, match=f"was made with --{refused}, but"):
        run.figures()


def test_damaged_results_are_named(tmp_path):
    run = grid(tmp_path, methods=["lwf"])[0]
    write_json(run.directory.results, {"settings": []})
    with pytest.raises(UserError, match=r"results\.json is not the results\.json of a run"):
        run.figures()


# Training


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
    first, second, _ = grid(tmp_path, methods=["lwf"])
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
    runs = grid(tmp_path, methods=["lwf"])
    first, second, third = runs

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
    lwf, second, _ = grid(tmp_path, methods=["lwf"])
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


# The command


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
