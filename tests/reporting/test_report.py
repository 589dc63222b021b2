"""The report: its command, its page, its tables."""

import html.parser
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from mnemonics_tf import report as report_module
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.reporting import markdown, tables
from mnemonics_tf.reporting.charts import Series, line_chart, ticks
from mnemonics_tf.reporting.comparability import warnings
from mnemonics_tf.reporting.drift import since_birth
from mnemonics_tf.reporting.gallery import difference, gallery
from mnemonics_tf.reporting.groups import group_runs
from mnemonics_tf.reporting.runs import load_runs
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import write_arrays, write_json
from tests.reporting.report_runs import contents, write_run

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


class Page(html.parser.HTMLParser):
    """Collects what matters of a page, and that its elements close in order."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text: str):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_seeds_become_one_group_with_an_interval(write):
    runs = load_runs(write(contents(1, (0.9, 0.5)), contents(0, (0.9, 0.7))))
    (group,) = group_runs(runs)
    assert [run.seeds[0] for run in group.runs] == [0, 1]
    last = group.accuracies("classifier")[1]
    assert last.mean == pytest.approx(0.6)
    assert last.deviation == pytest.approx(0.02**0.5)
    assert last.half_width is None  # two seeds are too few
    assert group.accuracies("nme")[0].deviation == pytest.approx(0, abs=1e-9)
    forgotten = group.metric("classifier", "forgetting")
    assert forgotten.values == (pytest.approx(0.2), pytest.approx(0.4))
    assert warnings(runs, [group]) == []


def test_three_seeds_have_an_interval(write):
    runs = load_runs(write(*(contents(seed, (0.9, 0.5 + 0.1 * seed)) for seed in range(3))))
    (group,) = group_runs(runs)
    last = group.accuracies("classifier")[1]
    assert last.half_width == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)
    assert tables.summary([group]).rows[0][5] == "60.00 ± 24.84\n(sd 10.00)"


def test_two_seeds_are_drawn_as_lines_and_three_as_a_ribbon(tmp_path, write):
    def drawn(count):
        paths = write(*(contents(seed, (0.9, 0.5 + 0.1 * seed)) for seed in range(count)))
        assert report_module.report(paths, tmp_path / "page.html", "") == 0
        text = (tmp_path / "page.html").read_text()
        return text.count('class="ribbon"'), text.count('class="member"')

    assert drawn(1) == (0, 0)
    assert drawn(2) == (0, 2 * 4)  # both heads, accuracy and forgetting
    assert drawn(3) == (4, 0)


def test_differences_are_formed_seed_by_seed(write):
    runs = load_runs(
        write(
            *(contents(seed, (0.9, 0.5 + 0.1 * seed)) for seed in range(2)),
            *(
                contents(seed, (0.9, 0.52 + 0.1 * seed), exemplar__exemplars="random")
                for seed in range(3)
            ),
            contents(0, exemplar__exemplars_per_class=3),
        )
    )
    table = tables.paired(group_runs(runs))
    assert table.caption.startswith("Difference from lwf, herding")
    assert [row[:3] for row in table.rows] == [
        ("lwf, random", "classifier", "0, 1"),
        ("lwf, random", "nme", "0, 1"),
    ]
    assert table.rows[0][4] == "+2.00\n(sd 0.00)\n+2.00, +2.00"
    assert tables.paired(group_runs(runs[:2])) is None


def test_other_settings_make_other_groups_with_names_that_differ(write):
    runs = load_runs(
        write(
            contents(),
            contents(training__epochs=3),
            contents(exemplar__exemplars="random"),
            contents(training__method="joint"),
        )
    )
    names = [group.name for group in group_runs(runs)]
    assert names == [
        "lwf, herding, epochs=10",
        "lwf, herding, epochs=3",
        "lwf, random",
        "joint (upper bound)",
    ]


def test_names_hold_three_differences_that_matter(write):
    runs = load_runs(
        write(
            contents(),
            contents(
                training__epochs=3,
                model__depth=14,
                training__base_epochs=4,
                training__batch_size=8,
                training__ranking_margin=0.1,  # LUCIR's
                outer__outer_steps=7,  # of exemplars that learn
            ),
        )
    )
    names = [group.name for group in group_runs(runs)]
    assert names[1] == "lwf, herding, depth=14, base_epochs=4, epochs=3"


def test_runs_that_differ_in_nothing_that_matters_are_told_apart_by_their_paths(write):
    paths = write(contents(), contents(outer__outer_steps=7))
    names = [group.name for group in group_runs(load_runs(paths))]
    assert names == [f"lwf, herding, {path}" for path in paths]


def test_settings_and_protocol_that_an_older_file_lacks_are_at_their_defaults(write):
    older = contents(1)
    del older["settings"]["outer"], older["protocol"]["exemplars_total"]
    del older["settings"]["training"]["ranking_margin"]
    runs = load_runs(write(contents(0), older))
    (group,) = group_runs(runs)
    assert len(group.runs) == 2
    assert warnings(runs, [group]) == []


def test_runs_can_be_named(tmp_path, write):
    first, second, third = write(contents(), contents(1), contents(training__epochs=3))
    groups = group_runs(load_runs([f"our run={first}", f"our run={second}", f"b={third}"]))
    assert [(group.name, len(group.runs)) for group in groups] == [("our run", 2), ("b", 1)]
    apart = group_runs(load_runs([f"a={first}", f"b={second}"]))
    assert [group.name for group in apart] == ["a", "b"]
    same = group_runs(load_runs([f"a={first}", f"a={third}"]))
    assert [group.name for group in same] == ["a, epochs=10", "a, epochs=3"]
    odd = tmp_path / "x=y.json"
    odd.write_text(json.dumps(contents()))
    assert load_runs([str(odd)])[0].name == ""
    for argument in (f"={first}", "a="):
        with pytest.raises(UserError, match="expected a path, or NAME=PATH"):
            load_runs([argument])
    with pytest.raises(UserError, match="pass it once"):
        load_runs([f"a={first}", f"b={first}"])


def test_a_seed_counts_once(write):
    same = contents()
    runs = load_runs([*write(same, same), *write(same, same)])
    assert len(runs) == 2  # a path that comes twice is one run
    (group,) = group_runs(runs)
    assert len(group.runs) == 1
    assert group.runs[0].path.name == "0.json"
    (warning,) = warnings(runs, [group])
    assert "1.json repeats" in warning


def on(names: str, digest: str | None, seed: int = 0) -> dict:
    """Results of a run on some data."""
    digests = {"training": digest, "test": "files-0"} if digest else None
    order = {"class_order": list(range(10)), "class_names": names.split() + list("cdefghij")}
    return contents(seed) | order | {"data_digests": digests}


def test_runs_on_other_data_are_neither_averaged_nor_repeats(write):
    runs = load_runs(
        write(on("a b", "files-1"), on("a b", "files-2", 1), on("k l", "files-1"), on("a b", None))
    )
    groups = group_runs(runs)
    assert [len(group.runs) for group in groups] == [1] * 4
    assert len({group.name for group in groups}) == 4
    found = warnings(runs, groups)
    (warning,) = [text for text in found if text.startswith("Other classes or images: ")]
    assert "a, b, c, ... (lwf" in warning
    assert "images not noted (lwf" in warning
    assert not any("repeats" in text for text in found)
    same = load_runs(write(on("a b", "files-1"), on("a b", "files-1", 1)))
    (group,) = group_runs(same)
    assert len(group.runs) == 2
    assert warnings(same, [group]) == []


def test_different_protocols_are_warned_of(write):
    runs = load_runs(write(contents(), contents(exemplar__exemplars_per_class=5)))
    (warning,) = warnings(runs, group_runs(runs))
    assert warning.startswith("Other protocols: exemplars_per_class is 20 (lwf")
    assert "; 5 (" in warning


def test_a_warning_is_one_line_however_many_runs(write):
    several = [
        contents(training__epochs=n, exemplar__exemplars_per_class=5 + n % 2) for n in range(1, 9)
    ]
    runs = load_runs(write(*several))
    (warning,) = warnings(runs, group_runs(runs))
    assert "and 2 more" in warning
    assert len(warning) < 400
    assert "\n" not in warning


def test_unfinished_runs_and_uneven_seeds_are_warned_of(write):
    runs = load_runs(write(contents(), contents(5, (0.9,), training__method="icarl")))
    found = " ".join(warnings(runs, group_runs(runs)))
    assert "has 1 of 2 phases" in found
    assert "same seeds" in found
    assert "protocols" not in found.lower()


def test_the_table_beside_the_paper():
    runs = load_runs([str(RESULTS / "cifar100_cpu_lwf.json")])
    table = tables.beside_the_paper(group_runs(runs))
    (row,) = table.rows
    assert row[:3] == ("lwf, herding", "5", "53.09")
    assert row[3:7] == ("49.59", "+3.50", "52.44", "+0.65")
    assert row[7:] == ("23.88", "43.36", "-19.48")
    assert "with the balanced fine-tune; 20/12/15 epochs" in table.notes[-1]


def test_no_published_column_where_there_is_nothing_to_publish(tmp_path, write):
    assert tables.beside_the_paper(group_runs(load_runs(write(contents())))) is None
    assert report_module.report(write(contents()), tmp_path / "page.html", "") == 0
    assert "Beside the published" not in (tmp_path / "page.html").read_text()
    # LUCIR's rows stand in the paper, and not in the authors' README.
    lucir = load_runs(RESULTS.glob("table1_short/*lucir*herding_weight*.json"))
    table = tables.beside_the_paper(group_runs(lucir))
    assert "paper" in table.header
    assert not any("README" in title for title in table.header)
    assert all(len(row) == len(table.header) for row in table.rows)


def test_the_gallery_shows_where_exemplars_began_and_how_far_they_moved(tmp_path):
    run = contents(exemplar__exemplars="mnemonics")
    shown = gallery(group_runs(load_runs([write_run(tmp_path / "a", run, moved=4).root]))[0])
    assert shown.starts_known
    assert len(shown.cards) == 10
    for card in shown.cards:
        assert card.moved.tolist() == [4.0, 4.0]
        assert card.farthest.tolist() == [4, 4]
        np.testing.assert_array_equal(card.now - card.start, 4)
    assert shown.amplification == 16
    assert set(np.unique(difference(shown.cards[0], 16))) == {128 + 64}
    # A run of an earlier version keeps no starts; those that never moved are shown as they are.
    (older,) = group_runs(load_runs([write_run(tmp_path / "b", run, moved=4, starts=False).root]))
    assert not gallery(older).starts_known
    assert not gallery(older).any_moved
    (herding,) = group_runs(load_runs([write_run(tmp_path / "c", contents()).root]))
    assert not gallery(herding).any_moved


def test_starts_that_are_not_the_phase_s_are_named(tmp_path):
    directory = write_run(tmp_path, contents(exemplar__exemplars="mnemonics"), moved=4)
    other = ExemplarMemory(np.zeros((1, 8, 8, 1), np.uint8), np.array([7]))
    other.save(directory.exemplar_starts(0))
    (group,) = group_runs(load_runs([directory.root]))
    with pytest.raises(UserError, match="00/exemplar_starts.npz holds images .* from 0 to 4: put"):
        gallery(group)


def test_a_page_from_results_alone(tmp_path, capsys):
    output = tmp_path / "deep" / "page.html"
    paths = [str(RESULTS / f"cifar100_cpu_{name}.json") for name in ("lwf", "joint")]
    assert report_module.report(paths, output, "") == 0
    first = output.read_bytes()
    page = Page(first.decode())
    text = " ".join(page.text)
    assert "Left out: it needs a run directory" in text
    assert "52:02" in text  # the joint run's time
    assert "a5f4511f57f70b4a" in text
    # Nothing is fetched from anywhere.
    links = [v for _, a in page.elements for k, v in a.items() if k in ("src", "href")]
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "@import" not in first.decode()
    assert not page.all("script")
    assert "prefers-color-scheme: dark" in first.decode()
    # Readable without eyes.
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in page.all("svg"))
    assert page.all("html") == [{"lang": "en"}]
    assert report_module.report(paths, output, "") == 0
    assert output.read_bytes() == first
    summary = output.with_suffix(".md").read_text()
    assert "| lwf, herding | 5 | 53.09 | 49.59 | +3.50 | 52.44 | +0.65 |" in summary
    assert "t-SNE left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({}, "20 a class"),
        ({"exemplars_total": 50}, "50 in all"),
        ({"exemplars_per_class": None, "exemplar_bytes_per_class": 640}, "640 bytes a class"),
        ({"exemplars_per_class": None, "exemplar_bytes_total": 6400}, "6400 bytes in all"),
    ],
)
def test_the_budget_is_named(tmp_path, write, budget, words):
    run = contents()
    run["protocol"] |= budget
    report_module.report(write(run), tmp_path / "report.html", "")
    assert f"digits, N = 1, {words}" in (tmp_path / "report.html").read_text()


def test_text_from_files_is_escaped(tmp_path, write):
    bad = '<script>alert("x")</script>'
    run = contents(training__method=bad, protocol__dataset="digits")
    run["protocol"]["class_order_hash"] = bad
    run["phases"][0]["seconds"][bad] = 99.0
    run["hardware"] = {bad: bad}
    output = tmp_path / "page.html"
    assert report_module.report(write(run), output, "") == 0
    page = Page(output.read_text())
    assert not page.all("script")
    assert bad in " ".join(page.text)
    assert "<script" not in output.with_suffix(".md").read_text().replace("\\<", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: run.pop("phases"), "'phases' is missing"),
        (lambda run: run["phases"].reverse(), "phases/0/phase: expected 0, found 1"),
        (
            lambda run: run["phases"][0]["heads"]["nme"].update(accuracy=float("nan")),
            "phases/0/heads/nme/accuracy: expected a number from 0 to 1, found NaN",
        ),
        (
            lambda run: run["phases"][1]["heads"]["nme"].update(group_accuracies=[0.5]),
            "heads/nme/group_accuracies: expected 2 entries, found 1",
        ),
        (lambda run: run["phases"][0].update(heads=3), "phases/0/heads: expected an object"),
        (lambda run: run["protocol"].pop("dataset"), "protocol: 'dataset' is missing"),
        (
            lambda run: run.update(settings={"training": 3}),
            "settings/training: expected an object, found 3",
        ),
        (
            lambda run: run["phases"][0].update(seconds={"train": "long"}),
            "seconds/train: expected a number",
        ),
        (lambda run: run.update(prediction_head="oracle"), "prediction_head: expected"),
    ],
)
def test_files_that_are_no_results(write, change, message):
    run = contents()
    change(run)
    with pytest.raises(UserError, match="0.json is not a results.json") as raised:
        load_runs(write(run))
    assert message in str(raised.value)


LARGE = 10**400
MISTYPED = {
    "stages": lambda run: run["phases"][1].update(stages=[1]),
    "exemplars": lambda run: run["phases"][1].update(stages={"exemplars": {"meta_loss": ["x"]}}),
    "adjust": lambda run: run["phases"][1].update(stages={"adjust": {"count": LARGE}}),
    "margin_end": lambda run: run["phases"][0].update(stages={"adjust": {"margin_end": LARGE}}),
    "hardware": lambda run: run.update(hardware=[1]),
    "packages": lambda run: run.update(packages="numpy"),
    "exemplar_seed": lambda run: run["settings"]["exemplar"].update(exemplar_seed="one"),
    "seed": lambda run: run["settings"]["protocol"].update(seed=LARGE),
    "method": lambda run: run["settings"]["training"].update(method=["lwf"]),
    "epochs": lambda run: run["settings"]["training"].update(epochs=LARGE),
    "depth": lambda run: run["settings"]["model"].update(depth={}),
    "num_phases": lambda run: run["protocol"].update(num_phases=LARGE),
    "num_seen": lambda run: run["phases"][0].update(num_seen=LARGE),
    "num_seen must grow": lambda run: run["phases"][1].update(num_seen=5),
    "train": lambda run: run["phases"][0]["seconds"].update(train=LARGE),
    "class_order": lambda run: run.update(class_order=[1, 2, 3]),
    "class_order: expected each": lambda run: run.update(class_order=[1] * 10),
    "class_names": lambda run: run.update(class_names=list("abc")),
    "data_digests": lambda run: run.update(data_digests=[1]),
}


@pytest.mark.parametrize("place", MISTYPED)
def test_values_of_another_kind_are_named(write, place):
    run = contents()
    MISTYPED[place](run)
    with pytest.raises(UserError, match=rf"not a results.json .*: .*{place}") as raised:
        load_runs(write(run))
    assert len(str(raised.value)) < 400


def test_published_results_are_of_the_right_shape():
    paths = [p for p in RESULTS.rglob("*.json") if '"summary"' in p.read_text()[:20]]
    assert len(paths) > 10
    assert len(load_runs(paths)) == len(paths)


def test_results_that_are_not_those_of_their_phases(tmp_path):
    directory = RunDirectory(tmp_path)
    run = contents()
    write_json(directory.results, run)
    for record in run["phases"]:
        write_json(directory.record(record["phase"]), record)
    assert len(load_runs([str(tmp_path)])) == 1
    run["phases"][1]["heads"]["nme"]["accuracy"] = 0.61
    write_json(directory.record(1), run["phases"][1])
    with pytest.raises(UserError, match=r"results\.json and .*01/phase\.json contradict"):
        load_runs([str(tmp_path)])
    write_json(directory.results, run)
    labels = np.arange(10)
    arrays = {"labels": labels, "classifier": labels, "nme": labels}
    write_arrays(directory.predictions(1), arrays)
    with pytest.raises(UserError, match=r"results\.json and .*01/predictions\.npz contradict"):
        load_runs([str(tmp_path)])


def test_pages_that_can_not_be_written(tmp_path, write):
    (tmp_path / "page.html").mkdir()
    (tmp_path / "other.md").mkdir()
    (tmp_path / "file").touch()
    paths = write(contents())
    for name, message in (
        ("page.html", "page.html is a folder"),
        ("other.html", "other.md is a folder"),
        ("a\0b.html", "--output=.*NUL"),
        ("x" * 248 + ".html", "--output=.*File name too long"),
        ("file/page.html", "can't be written .* as --output"),
    ):
        with pytest.raises(UserError, match=message):
            report_module.report(paths, tmp_path / name, "")
    for text in ("a\0b", "x" * 300):
        with pytest.raises(UserError, match="RUN=.* is no path"):
            load_runs([text])


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "results.json")
    for path in (tmp_path, tmp_path / "results.json"):
        with pytest.raises(UserError, match="is no regular file"):
            load_runs([str(path)])


def test_runs_that_are_not_there(tmp_path, capsys):
    with pytest.raises(UserError, match=r"results.json does not exist"):
        load_runs([str(tmp_path)])
    with pytest.raises(UserError, match=r"--output=.*ends in .html"):
        report_module.report(["x"], tmp_path / "page", "")


@pytest.mark.slow
def test_the_command_says_what_is_wrong_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mnemonics_tf.report", str(tmp_path / "nothing")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_exemplars_are_compared_with_their_first_versions():
    def image(value):
        return np.full((1, 2, 2, 1), value, np.uint8)

    first = ExemplarMemory(np.concatenate([image(10), image(20)]), np.array([0, 0]))
    second = ExemplarMemory(np.concatenate([image(13), image(50)]), np.array([0, 1]))
    pair = since_birth([first, second], [1, 2], 1)
    np.testing.assert_array_equal(pair.birth[:, 0, 0, 0], [10, 50])
    np.testing.assert_array_equal(pair.now[:, 0, 0, 0], [13, 50])


def test_ticks_cover_the_range_with_round_numbers():
    assert ticks(45.7, 65.9) == [45, 50, 55, 60, 65, 70]
    assert ticks(0.013, 0.095) == pytest.approx([0, 0.02, 0.04, 0.06, 0.08, 0.1])
    assert len(ticks(3.0, 3.0)) >= 2


def test_a_line_of_one_point_and_a_flat_one_can_be_drawn():
    series = [Series(0, "a", [5], [50.0]), Series(9, "b", [5], [50.0], [0.0])]
    Page(line_chart(series, "x", "y", "d"))


def test_markdown_cells_keep_their_columns():
    assert markdown.escape("a|b\n*c*") == "a\\|b \\*c\\*"
