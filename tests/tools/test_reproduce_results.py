"""Which results count as those of a run of a table."""

import pytest

from mnemonics_tf.errors import UserError
from mnemonics_tf.run.files import read_json, write_json
from tests.tools.reproduce_grid import SCHEDULE, grid, named, write_local, write_results
from tools.reproduce_flags import is_value
from tools.reproduce_rows import rows
from tools.reproduce_table import text_table


def test_runs_of_other_lengths_are_no_row(tmp_path):
    schedule = (*SCHEDULE, "--last_phase=3")
    whole, short = (
        grid(tmp_path, methods=["lwf"], published=tmp_path / "published", schedule=flags)[0]
        for flags in (SCHEDULE, schedule)
    )
    assert not whole.is_done()
    write_local(whole, 0.5)
    assert whole.is_done()
    with pytest.raises(UserError, match="ends with phase 5, but this grid's runs end with phase 3"):
        short.figures()
    contents = read_json(whole.directory.results)
    contents["phases"] = contents["phases"][:4]
    write_json(whole.directory.results, contents)
    assert "N = 5: the runs end with phase 3" in text_table([short])
    assert not whole.is_done()  # it goes on
    short.publish()
    with pytest.raises(UserError, match="ends with phase 3, but this grid's runs end with phase 5"):
        whole.figures()


def test_results_of_another_row_are_refused(tmp_path):
    herding = named(grid(tmp_path, "bytes", methods=["lwf"]), "lwf all kernels herding")
    for changed in ({"codec": "jpeg"}, {"mixed_precision": "bfloat16"}):
        write_local(herding, 0.5, exemplars="herding", replay_per_class=20, **changed)
        with pytest.raises(UserError, match=f"was made with --{next(iter(changed))}="):
            herding.figures()


def test_values_of_flags_are_of_their_types():
    good = ("--depth=8", "--weight_decay=1e-4", "--inner_augmentation=false", "--nodownload")
    bad = ("--epochs=abc", "--epochs", "--noepochs", "--inner_augmentation=perhaps")
    assert [is_value(flag) for flag in good + bad] == [True] * 4 + [False] * 4


def test_published_results_count_and_grow(tmp_path):
    published = tmp_path / "published"
    runs = grid(tmp_path, methods=["lwf"], published=published)
    plain, herding, *_ = runs
    write_results(published / f"{plain.name}.json", plain, {"classifier": 0.4, "nme": 0.5})
    write_local(herding, 0.3)
    assert [run.is_done() for run in runs] == [True, True, False, False]
    assert [run.is_done() for run in grid(tmp_path, methods=["lwf"])] == [False, True, False, False]
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


def test_learned_exemplars_of_a_version_without_a_bound_had_none(tmp_path):
    for bound, refused in ((), True), (("--max_shift=255",), False):
        runs = grid(tmp_path, methods=["lwf"], schedule=(*SCHEDULE, *bound))
        run = named(runs, "lwf w/ ours w/o adj.")
        write_local(run, 0.3, exemplars="mnemonics")
        contents = read_json(run.directory.results)
        del contents["settings"]["outer"]
        write_json(run.directory.results, contents)
        if refused:
            with pytest.raises(UserError, match=r"made with --max_shift=255\.0, but"):
                run.figures()
        else:
            assert run.figures().average_accuracy == pytest.approx(30)


def test_runs_that_end_early_have_no_figures_of_the_paper_beside_them(tmp_path):
    """Those of more phases are lower."""
    for flags, told in ((), True), (("--last_phase=3",), False):
        runs = grid(tmp_path, methods=["lwf"], schedule=(*SCHEDULE, *flags))
        assert (named(runs, "lwf").paper() is not None) is told
        assert (rows(runs)[0].accuracy.published is not None) is told


def test_lucir_of_a_version_that_froze_old_classes_in_the_fine_tune(tmp_path):
    for flags, refused in ((), True), (("--nofinetune_old_classes",), False):
        runs = grid(tmp_path, methods=["lucir"], schedule=(*SCHEDULE, *flags))
        run = named(runs, "lucir w/ herding")
        write_local(run, 0.3)
        contents = read_json(run.directory.results)
        del contents["settings"]["training"]["finetune_old_classes"]
        write_json(run.directory.results, contents)
        if refused:
            with pytest.raises(UserError, match="made with --finetune_old_classes=False, but"):
                run.figures()
        else:
            assert run.figures().average_accuracy == pytest.approx(30)


@pytest.mark.parametrize(
    "damage",
    [
        lambda contents: {"settings": []},
        lambda contents: contents | {"settings": {}},
        lambda contents: contents | {"phases": 3},
    ],
)
def test_damaged_results_are_named(tmp_path, damage):
    run = grid(tmp_path, methods=["lwf"])[0]
    write_local(run, 0.3)
    write_json(run.directory.results, damage(read_json(run.directory.results)))
    with pytest.raises(UserError, match=r"results\.json is not the results\.json of a run"):
        run.figures()
