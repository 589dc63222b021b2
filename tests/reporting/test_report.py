"""The report: its command, its page, its tables."""

import csv
import html.parser
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from mnemonics_tf import report as report_module
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.flags import settings_from_flags
from mnemonics_tf.reporting import markdown, tables
from mnemonics_tf.reporting.charts import Series, line_chart, ticks
from mnemonics_tf.reporting.drift import since_birth
from mnemonics_tf.reporting.groups import group_runs
from mnemonics_tf.reporting.memories import memories
from mnemonics_tf.reporting.published import EPOCHS, SETTINGS, departures_of_settings
from mnemonics_tf.reporting.runs import load_runs
from mnemonics_tf.settings import by_name
from tests.reporting.report_runs import contents, with_learned

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "docs" / "results"


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


def test_two_seeds_are_drawn_as_lines_and_three_as_a_ribbon(tmp_path, write):
    def drawn(count):
        paths = write(*(contents(seed, (0.9, 0.5 + 0.1 * seed)) for seed in range(count)))
        assert report_module.report(paths, tmp_path / "page.html", "") == 0
        text = (tmp_path / "page.html").read_text()
        return text.count('class="ribbon"'), text.count('class="member"')

    assert drawn(1) == (0, 0)
    assert drawn(2) == (0, 2 * 4)  # both heads, accuracy and forgetting
    assert drawn(3) == (4, 0)


def test_the_table_beside_the_paper(write):
    runs = load_runs([str(RESULTS / "cifar100_cpu_lwf.json")])
    table = tables.beside_the_paper(group_runs(runs))
    (row,) = table.rows
    assert row[:3] == ("lwf, herding", "5", "53.09")
    assert row[3:7] == ("49.59", "+3.50", "52.44", "+0.65")
    assert row[7:] == ("23.88", "43.36", "-19.48")
    assert "with the balanced fine-tune; 20/12/15 epochs" in table.notes[-1]
    assert table.notes[-1].endswith(", not 160/160/50.")
    run = json.loads((RESULTS / "cifar100_cpu_lwf.json").read_text())
    run["settings"]["training"] |= {"batch_size": 64, "learning_rate_milestones": [0.5]}
    table = tables.beside_the_paper(group_runs(load_runs(write(run))))
    told = "; batch size 64, not 128; learning rate milestones 0.5, not 0.5,0.75."
    assert table.notes[-1].endswith(told)


@pytest.mark.parametrize("dataset", SETTINGS)
def test_the_paper_s_settings_are_those_of_the_flag_files(parse, dataset):
    flags = parse(f"--flagfile={REPOSITORY}/configs/{dataset}.flags", "--method=lucir")
    settings = by_name(settings_from_flags(flags).results_settings())
    assert departures_of_settings(dataset, settings) == []
    epochs = "base_epochs", "epochs", "finetune_epochs"
    assert EPOCHS[dataset] == tuple(settings[name] for name in epochs)
    changed = {name: 3 for name in SETTINGS[dataset] if name != "backbone"}
    told = departures_of_settings(dataset, settings | changed | {"finetune_epochs": 0})
    expected = SETTINGS[dataset].keys() - {"backbone", "finetune_learning_rate"}
    assert {text.split(" 3, not ")[0].replace(" ", "_") for text in told} == expected
    told = departures_of_settings(dataset, settings | {"backbone": "mine:build", "depth": 3})
    assert told == [f"backbone mine:build, not {settings['backbone']}"]


@pytest.mark.parametrize("change", ["base", "phases", "learned", "memory"])
def test_runs_of_another_course_are_not_put_beside_the_paper(write, change):
    run = json.loads((RESULTS / "cifar100_cpu_lwf.json").read_text())
    if change == "base":
        run["phases"][0]["num_seen"] -= 1
    elif change == "phases":
        run["phases"][1]["num_seen"] -= 1
    elif change == "learned":
        run["phases"][-1]["learned"] = {"settings": run["settings"]}
    else:
        run["protocol"] |= {"exemplars_per_class": 40}
    table = tables.beside_the_paper(group_runs(load_runs(write(run))))
    if change == "memory":
        assert "a memory of 40 a class, not 20 a class" in table.notes[-1]
    else:
        assert table is None


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


@pytest.mark.parametrize("name", ["page.md", "page.csv"])
def test_files_of_others_are_not_replaced_by_tables(tmp_path, write, name):
    output, beside = tmp_path / "page.html", tmp_path / name
    beside.write_text("# Mine\n")
    with pytest.raises(UserError, match=f"writes {name} beside the page"):
        report_module.report(write(contents()), output, "")
    assert not output.exists()
    assert beside.read_text() == "# Mine\n"
    beside.write_text("")
    for _ in range(2):  # its own tables are replaced
        assert report_module.report(write(contents()), output, "") == 0


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


def test_the_budget_is_that_of_the_last_phase(write):
    run = with_learned(contents(), exemplar__exemplars_total=500)
    plain = with_learned(contents())
    groups = group_runs(load_runs(write(plain, run)))
    assert [group.first.budget for group in groups] == ["20 a class", "500 in all"]
    in_bytes = with_learned(contents(), exemplar__exemplar_bytes_per_class=640)
    in_bytes["settings"]["exemplar"] |= {"exemplars_total": 50}
    in_bytes["protocol"] |= {"exemplars_total": 50}
    (group,) = group_runs(load_runs(write(in_bytes)))
    assert (group.first.budget, group.first.bytes_per_class) == ("640 bytes a class", 640)


def test_other_memories_share_a_panel_and_other_classes_do_not(tmp_path, write):
    small, large, other = contents(), contents(), contents(protocol__base_classes=4)
    large["protocol"]["exemplars_per_class"] = 80
    large["settings"]["exemplar"]["exemplars_per_class"] = 80

    def titles(*runs) -> list[str]:
        report_module.report(write(*runs), tmp_path / "page.html", "")
        page = (tmp_path / "page.html").read_text()
        found = re.findall(r"<figcaption>([^<]*: head classifier)", page)
        return found[: len(found) // 2]  # forgetting has the same

    assert titles(small) == ["digits, N = 1, 20 a class: head classifier"]
    assert titles(small, large) == ["digits, N = 1: head classifier"]
    assert titles(small, other) == [
        f"digits, N = 1, 20 a class, base_classes = {count}: head classifier" for count in (5, 4)
    ]


@pytest.mark.parametrize("name", ["=1+2", "+1", "-1", "@SUM(A1)"])
def test_no_name_is_a_formula_in_a_spreadsheet(tmp_path, write, name):
    """It may be a stranger's: of a run, or of the method in its results.json."""
    (path,) = write(contents(training__method=name))
    report_module.report([path], tmp_path / "page.html", "")
    line = (tmp_path / "page.csv").read_text().splitlines()[1]
    assert next(csv.reader([line]))[0] == f"'{name}, herding"


def test_what_the_memory_holds_is_told(write):
    runs = [contents(0), contents(1), contents(0, exemplar__codec="jpeg")]
    for run, counts, sizes in zip(
        runs,
        ([20] * 10, [20] * 10, [90, 110]),
        ([1280] * 10, [1280] * 10, [61000, 61400]),
        strict=True,
    ):
        run["phases"][-1]["memory"] = {
            "exemplars": sum(counts),
            "bytes": sum(sizes),
            "exemplars_by_class": counts,
            "bytes_by_class": sizes,
        }
    table = memories(group_runs(load_runs(write(*runs))))
    assert [row[1:] for row in table.rows] == [
        ("20 a class", "200", "20", "12,800", "1,280", "64"),
        ("20 a class", "200", "90 to 110", "122,400", "61,000 to 61,400", "612"),
    ]
    del runs[1]["phases"][-1]["memory"]["bytes"]
    table = memories(group_runs(load_runs(write(*runs))))
    assert table.rows[0][2:] == ("–",) * 5
    assert memories(group_runs(load_runs(write(contents())))) is None


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
        ("file/page.html", "is no folder: pass another path"),
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
    with pytest.raises(UserError, match=r"it is no run"):
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
    for label, expected in ((0, (10, 13)), (1, (50, 50))):
        pair = since_birth([first, second], [1, 2], 1, label)
        assert [images[:, 0, 0, 0].tolist() for images in pair] == [[value] for value in expected]
    birth, now = since_birth([first], [1], 0, 0, most=1)
    assert len(birth) == len(now) == 1


def test_ticks_cover_the_range_with_round_numbers():
    assert ticks(45.7, 65.9) == [45, 50, 55, 60, 65, 70]
    assert ticks(0.013, 0.095) == pytest.approx([0, 0.02, 0.04, 0.06, 0.08, 0.1])
    assert len(ticks(3.0, 3.0)) >= 2


def test_a_line_of_one_point_and_a_flat_one_can_be_drawn():
    series = [Series(0, "a", [5], [50.0]), Series(9, "b", [5], [50.0], [0.0])]
    Page(line_chart(series, "x", "y", "d"))


@pytest.mark.parametrize(("value", "shown"), [(97.0, (96.0, 98.0)), (100.0, (99.0, 100.0))])
def test_the_axis_of_a_flat_line_shows_what_is_near_it(value, shown):
    chart = line_chart([Series(0, "a", [5, 10], [value, value])], "x", "y", "d")
    lines = re.findall(r'text-anchor="end">([\d.]+)</text>', chart)
    assert (float(lines[0]), float(lines[-1])) == shown


def test_the_interval_and_the_seeds_of_one_point_can_be_seen():
    """As of runs with one phase."""
    line = Series(0, "a", [5], [50.0], [2.0], [[49.0], [51.0]])
    chart = line_chart([line], "x", "y", "d")
    assert 'class="ribbon"' not in chart
    drawn = re.findall(r'<path class="(?:line|member)"[^>]* d="([^"]*)"', chart)
    ends = [np.array(re.findall(r"[\d.]+", path), float) for path in drawn]
    assert sum(len(points) > 2 and len(set(points)) > 2 for points in ends) == 3


def test_labels_of_the_axis_do_not_overprint():
    xs = [500, 600, 700, 800, 900, 1000, 1001, 1002]
    chart = line_chart([Series(0, "a", xs, [50.0] * 8)], "x", "y", "d")
    texts = re.findall(r'text-anchor="middle">([\d.]+)</text>', chart)
    assert texts == ["500", "600", "700", "800", "900", "1002"]


def test_markdown_cells_keep_their_columns():
    assert markdown.escape("a|b\n*c*") == "a\\|b \\*c\\*"
