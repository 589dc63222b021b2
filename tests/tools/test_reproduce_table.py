"""The figures of the rows, as text and as Markdown."""

import dataclasses

import pytest

from mnemonics_tf.errors import UserError
from mnemonics_tf.run.files import read_json, write_json
from tests.tools.reproduce_grid import ROOT, grid, named, write_local
from tools.reproduce_cells import cells
from tools.reproduce_results import Place, Run
from tools.reproduce_rows import rows
from tools.reproduce_table import text_table, write_markdown


def test_runs_on_other_data_are_no_row(tmp_path):
    runs = grid(tmp_path, methods=["lwf"], seeds=(0, 1, 2))
    members = [named(runs, "lwf", seed) for seed in (0, 1, 2)]

    def tell(run, **data):
        write_local(run, 0.5)
        write_json(run.directory.results, read_json(run.directory.results) | data)

    digests = {"training": "files-aa", "test": "files-bb"}
    tell(members[0], class_names=["cat", "dog"], data_digests=digests)
    tell(members[1], class_names=["cat", "dog"])  # as an earlier version wrote it
    tell(members[2])
    assert rows(runs)[0].seeds == (0, 1, 2)
    tell(members[2], class_names=["cat", "dog"], data_digests=digests | {"training": "files-cc"})
    with pytest.raises(UserError, match="seed2.* and .*seed0.* learned from other images"):
        rows(runs)
    tell(members[2], class_names=["cat", "emu"])
    with pytest.raises(UserError, match="learned from other classes"):
        text_table(runs)


def test_rows_have_mean_interval_and_difference(tmp_path):
    runs = grid(tmp_path, methods=["lwf", "icarl"], seeds=(0, 1, 2))
    for seed, value in ((0, 0.50), (1, 0.53), (2, 0.515)):
        write_local(named(runs, "lwf", seed), value, nme=value + 0.1)
    table = {row.name: row for row in rows(runs)}
    assert list(table) == [cell.name for cell in cells("1", ["lwf", "icarl"])]

    lwf = table["lwf"]
    assert lwf.seeds == (0, 1, 2)
    assert lwf.accuracy.mean == pytest.approx(51.5)
    assert lwf.accuracy.half_width == pytest.approx(4.303 * 1.5 / 3**0.5, rel=1e-4)
    assert (lwf.accuracy.published, lwf.accuracy.difference) == (49.59, "+1.91")
    assert (lwf.forgetting.published, lwf.forgetting.difference) == (43.36, "-17.61")
    assert lwf.last.mean == pytest.approx(51.5)
    assert lwf.other_head.mean == pytest.approx(61.5)
    assert lwf.minutes.mean == pytest.approx(3)  # without phase 0

    icarl = table["icarl"]
    assert (icarl.accuracy.mean, icarl.accuracy.published) == (pytest.approx(61.5), 57.12)
    assert icarl.other_head.mean == pytest.approx(51.5)
    assert (table["lwf w/ ours"].seeds, table["lwf w/ ours"].accuracy.ours) == ((), "-")
    assert table["lwf w/ ours"].accuracy.paper == "54.43"


def test_fewer_than_three_seeds_have_no_interval(tmp_path):
    runs = grid(tmp_path, methods=["lucir"], seeds=(0, 1))
    for seed, value in ((0, 0.6), (1, 0.61)):
        write_local(named(runs, "lucir w/ herding", seed), value)
        row = rows(runs)[1]
        assert (row.accuracy.ours, row.accuracy.paper) == (f"{60 + seed / 2:.2f}", "63.39")
    assert row.accuracy.difference == "-2.89"


def test_differences_are_paired_by_seed(tmp_path):
    runs = grid(tmp_path, methods=["lwf"], seeds=(0, 1, 2))
    for seed, herding, ours in ((0, 0.50, None), (1, 0.51, 0.53), (2, 0.55, 0.56)):
        write_local(named(runs, "lwf w/ herding", seed), herding)
        if ours:
            write_local(named(runs, "lwf w/ ours", seed), ours)
    table = {row.name: row for row in rows(runs)}
    over_herding = table["lwf w/ ours"].over_herding
    assert over_herding.other == "lwf w/ herding"
    assert over_herding.accuracy.values == pytest.approx([2, 1])
    assert over_herding.accuracy.told == "+1.50 (+2.00, +1.00)"
    assert over_herding.last.mean == pytest.approx(1.5)
    assert over_herding.forgetting.mean == pytest.approx(0.75)
    assert table["lwf w/ herding"].over_herding.accuracy.told == ""
    assert table["lwf"].over_herding.accuracy.mean is None
    write_markdown(tmp_path / "table.md", runs)
    assert "| +1.50 (+2.00, +1.00) |" in (tmp_path / "table.md").read_text()


def test_a_row_is_compared_with_runs_that_are_no_rows(tmp_path):
    runs = grid(tmp_path, methods=["lwf"])
    herding, ours = named(runs, "lwf w/ herding"), named(runs, "lwf w/ ours")
    write_local(herding, 0.50)
    write_local(ours, 0.53)
    assert rows([ours])[0].over_herding.accuracy.told == ""
    (row,) = rows([ours], beside=[herding])
    assert (row.name, row.over_herding.accuracy.told) == ("lwf w/ ours", "+3.00")
    write_markdown(tmp_path / "table.md", [ours], [herding])
    markdown = (tmp_path / "table.md").read_text()
    assert "+3.00" in markdown
    assert "+3.00" in text_table([ours], [herding])
    assert "w/ herding" not in markdown


def test_learned_exemplars_are_compared_with_those_in_the_same_codec(tmp_path):
    runs = grid(tmp_path, "bytes", methods=["lwf"], seeds=(0, 1))
    values = {"herding": 0.50, "WebP herding": 0.52, "JPEG herding": 0.53, "WebP learned": 0.55}
    for name, value in values.items():
        for seed in (0, 1):
            write_local(named(runs, f"lwf all kernels {name}", seed), value + seed / 100)
    told = "lwf all kernels WebP learned over lwf all kernels WebP herding: average accuracy +3.00"
    *_, line = text_table(runs).splitlines()
    assert line.startswith(told)
    write_markdown(tmp_path / "table.md", runs)
    assert f"- {told}" in (tmp_path / "table.md").read_text()


def test_minutes_are_without_the_training_of_phase_0_alone(tmp_path):
    """Runs share its model; its exemplars are a row's own."""
    runs = grid(tmp_path, methods=["lwf"])
    write_local(named(runs, "lwf"), 0.5)
    results = named(runs, "lwf").directory.results
    contents = read_json(results)
    minutes = rows(runs)[0].minutes.mean
    contents["phases"][0]["seconds"]["exemplars"] = 120.0
    write_json(results, contents)
    assert rows(runs)[0].minutes.mean == pytest.approx(minutes + 2)


def test_compared_runs_have_one_model_of_phase_0(tmp_path):
    runs = grid(tmp_path, methods=["lwf"])
    for name, seed in (("lwf w/ herding", 0), ("lwf w/ ours", 1)):
        write_local(named(runs, name), 0.5)
        results = named(runs, name).directory.results
        write_json(results, read_json(results) | {"phase0_seed": seed})
    with pytest.raises(UserError, match="lwf w/ ours: its runs and herding's .* other models"):
        rows(runs)
    precision = {"phase0_seed": 1, "phase0_mixed_precision": "bfloat16"}
    results = named(runs, "lwf w/ herding").directory.results
    write_json(results, read_json(results) | precision)
    assert {row.name: row for row in rows(runs)}["lwf w/ ours"].over_herding.accuracy.mean == 0
    results = named(runs, "lwf w/ ours").directory.results
    write_json(results, read_json(results) | precision | {"phase0_mixed_precision": "off"})
    with pytest.raises(UserError, match="other models of phase 0"):
        rows(runs)
    write_local(named(runs, "lwf w/ ours"), 0.5)
    write_local(named(runs, "lwf w/ herding"), 0.5)  # as earlier versions wrote it
    assert {row.name: row for row in rows(runs)}["lwf w/ ours"].over_herding.accuracy.mean == 0


@pytest.mark.parametrize("others", [("lwf w/ ours", 0), ("lwf w/ herding", 1)])
def test_compared_and_averaged_runs_differ_in_what_rows_do_alone(tmp_path, others):
    """In another row of the seed, and in another seed of the row."""
    runs = grid(tmp_path, methods=["lwf"], seeds=(0, 1))
    both = [named(runs, *one) for one in (("lwf w/ herding", 0), others)]
    for name, value in (("less_forget_weight", 1.0), ("temperature", 2.0)):  # LwF has not the first
        assert rows(runs)
        for run, now in zip(both, (2 * value, value), strict=True):
            write_local(run, 0.5)
            contents = read_json(run.directory.results)
            contents["settings"]["training"][name] = now
            write_json(run.directory.results, contents)
    with pytest.raises(UserError, match="--temperature=[24].0 and .* with --temperature=[24].0"):
        rows(runs)


def test_a_ceiling_for_each_method_that_has_exemplars(tmp_path):
    chosen = cells("1", ["lwf", "joint"], ceiling=True)
    assert [cell.ceiling for cell in chosen] == [False] * 5 + [True]
    (plain, *_), ceiling = grid(tmp_path, methods=["lwf"]), chosen[-1]
    for schedule, number in (((), 20), (("--exemplars_per_class=5",), 5)):
        place = dataclasses.replace(plain.place, schedule=schedule)
        run = dataclasses.replace(plain, cell=ceiling, place=place)
        flags = {f"--exemplars_per_class={4 * number}", f"--replay_per_class={number}"}
        assert flags < set(run.choices())
        assert f"exemplars_per_class-{4 * number}" in run.name
    assert ceiling.published("cifar100", 5) is None
    assert "ceiling: 4 times" in text_table([run])


def test_a_ceiling_with_as_many_plain_images_as_jpeg_holds(tmp_path):
    (run,) = (
        dataclasses.replace(grid(tmp_path)[0], cell=cell)
        for cell in cells("bytes", ["lwf"], ceiling=True, wanted="all kernels ceiling 127")
    )
    assert {"--exemplars_per_class=127", "--replay_per_class=20"} < set(run.choices())
    assert run.name == "lwf_all_kernels_ceiling_127_N5_seed0"
    assert "; ceiling 127: 127 of a class" in text_table([run])


def test_accuracy_before_the_fine_tune_and_with_the_best_constant(tmp_path):
    runs = grid(tmp_path, methods=["lwf"])
    for run in runs:
        write_local(run, 0.5)
        contents = read_json(run.directory.results)
        for index, phase in enumerate(contents["phases"]):
            phase["heads"] = {"classifier": {"accuracy": 0.5}, "nme": {"accuracy": 0.5}}
            if index:
                phase["stages"] = {"before_finetune": {"classifier": 0.2, "nme": 0.3}}
                phase["best_constant"] = {"accuracy": 0.8, "chosen_on": "test data"}
        write_json(run.directory.results, contents)
    plain, tuned, *_ = rows(runs)
    assert plain.before.mean == pytest.approx(50)  # it has no fine-tune
    assert tuned.before.mean == pytest.approx((50 + 5 * 20) / 6)
    assert tuned.constant.mean == pytest.approx((50 + 5 * 80) / 6)
    assert "chosen on the test data" in text_table(runs)
    write_local(named(runs, "lwf w/ herding"), 0.5)  # as earlier versions wrote it
    assert rows(runs)[1].constant.ours == rows(runs)[1].before.ours == "-"


def test_text_and_markdown_say_the_same(tmp_path):
    runs = grid(tmp_path, methods=["icarl"], seeds=(0, 1, 2))
    for run in runs:
        write_local(run, 0.1, nme=0.6 + run.seed / 100)
    write_markdown(tmp_path / "table.md", runs)
    text, markdown = text_table(runs), (tmp_path / "table.md").read_text()
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 4
    assert len({line.count("|") for line in lines}) == 1
    assert "| icarl | 5 | 0, 1, 2 | 61.00 ± 2.48 | 57.12 | +3.88 |" in markdown
    for written in (text, markdown):
        assert "61.00 ± 2.48" in written
        assert "icarl trains exactly as lwf does" in written
    assert "icarl trains" not in text_table(grid(tmp_path, methods=["lwf"]))


def test_what_the_authors_gave_later_stands_beside_it(tmp_path):
    write_markdown(tmp_path / "table.md", grid(tmp_path, methods=["lucir"]))
    (line,) = (x for x in (tmp_path / "table.md").read_text().splitlines() if "64.95" in x)
    assert line.startswith("| lucir w/ ours | 5 | - | - | 64.95 |  | 63.34 | - | 11.64 |")


def test_the_papers_columns_go_where_it_has_none(tmp_path):
    runs = grid(tmp_path, "bytes", methods=["lwf"])
    done = named(runs, "lwf frozen herding")
    write_local(done, 0.5)
    write_markdown(tmp_path / "table.md", runs)
    written = (tmp_path / "table.md").read_text()
    title, _, heads, _, row, _, *notes = written.splitlines()
    assert title == f"# Test accuracy on {done.place.dataset}, in percent"
    assert heads.startswith("| row | N | seeds | average accuracy ours | forgetting ours | after")
    assert row.startswith("| lwf frozen herding | 5 | 0 | 50.00 |")
    assert notes[-1].startswith("- not run: lwf all kernels random, lwf all kernels herding, ")
    text = text_table(runs)
    assert "conference" not in written + text
    assert "paper" not in text.splitlines()[1]
    empty = [line for line in text.splitlines()[2 : 2 + len(runs)] if "50.00" not in line]
    assert len({line.index("-") for line in empty}) == 1
    assert "conference" in text_table(grid(tmp_path, methods=["lwf"]))


BFLOAT16 = ("--mixed_precision=bfloat16",)
OLD_FROZEN = ("--nofinetune_old_classes",)


@pytest.mark.parametrize(
    ("name", "folder", "schedule", "num_phases", "seeds", "chosen"),
    [
        (
            *("table1_paper", "table1_paper"),
            (
                *(*BFLOAT16, *OLD_FROZEN, "--outer_steps=20"),
                *("--outer_learning_rate=0.004", "--max_shift=255"),
            ),
            *(5, (0,), cells("1", ["lucir"])),
        ),
        (
            "table1_short",
            "table1_short",
            ("--max_shift=255", *OLD_FROZEN),
            5,
            (0,),
            cells("1", ["lwf", "icarl", "bic", "lucir"], True),
        ),
        ("bytes", "bytes", BFLOAT16, 5, range(5), cells("bytes", ["lwf"], True)),
        (
            *("bytes_n25", "bytes", (*BFLOAT16, "--last_phase=10"), 25, range(3)),
            cells("bytes", ["lwf"], True, "(all kernels|frozen) (herding|learned)$"),
        ),
        ("shift", "bytes", BFLOAT16, 5, (0,), cells("shift", ["lwf"], True)),
        (
            *("bytes_lucir", "bytes", (*BFLOAT16, *OLD_FROZEN), 5, range(3)),
            cells(
                *("bytes", ["lucir"], True),
                "all kernels (herding|learned|WebP herding|WebP learned|JPEG herding|ceiling 127)$",
            ),
        ),
        ("jpeg", "bytes", BFLOAT16, 5, (10,), cells("jpeg", ["lwf"], True, "all kernels")),
    ],
)
def test_published_tables_are_those_of_their_runs(
    tmp_path, name, folder, schedule, num_phases, seeds, chosen
):
    published = ROOT / "docs" / "results"
    place = Place("cifar100", schedule, tmp_path / "runs", published / folder, share_phase0=True)
    runs = [Run(place, cell, num_phases, seed) for seed in seeds for cell in chosen]
    write_markdown(tmp_path / "table.md", runs)
    assert (tmp_path / "table.md").read_text() == (published / f"{name}.md").read_text()


def test_hardware_and_recipe_are_named(tmp_path):
    runs = grid(tmp_path, methods=["lwf"], seeds=(0, 1))
    machines = [
        {"processor": "AMD EPYC", "cores": 2, "gpus": [], "replicas": 1},
        {"processor": "AMD EPYC", "cores": 16, "gpus": ["NVIDIA H100"], "replicas": 1},
    ]
    for seed, machine in enumerate(machines):
        run = named(runs, "lwf w/ ours", seed)
        used = {"exemplars": "mnemonics", "adjust_old_exemplars": True}
        write_local(run, 0.5, **used, inner_scope="classifier", inner_steps=50)
        contents = read_json(run.directory.results)
        write_json(run.directory.results, contents | {"hardware": machine})
    write_local(named(runs, "lwf"), 0.5, exemplars="herding", inner_scope="transfer")
    assert rows(runs)[3].hardware == "2 cores of AMD EPYC; NVIDIA H100"
    text = text_table(runs)
    assert "inner_scope=classifier (all)" in text
    assert "inner_steps" not in text  # as in the letter
    assert "transfer (all)" not in text  # of exemplars that did not learn


def test_recipes_of_some_rows_alone_are_told_apart(tmp_path):
    runs = grid(tmp_path, methods=["lwf"])
    for name, adjusted in (("lwf w/ ours", True), ("lwf w/ ours w/o adj.", False)):
        used = {"exemplars": "mnemonics", "inner_scope": "classifier", "inner_steps": 50}
        write_local(named(runs, name), 0.5, **used, adjust_old_exemplars=adjusted)
    *_, general, own = text_table(runs).splitlines()
    assert general.startswith("learned exemplars (ours): unlike the letter of the paper")
    assert general.endswith("brackets: max_shift=1.0 (255), inner_scope=classifier (all)")
    assert own == "lwf w/ ours w/o adj.: adjust_old_exemplars=False (True)"
