"""The report: its command, its page, its tables."""

import copy
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
from mnemonics_tf.reporting.drift import since_birth, strips
from mnemonics_tf.reporting.runs import group_runs, load_runs, warnings
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import write_arrays, write_json
from mnemonics_tf.settings import Settings

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "docs" / "results"


def contents(seed=0, accuracies=(0.9, 0.6), **changes) -> dict:
    """What results.json holds of a run of two phases; changes are `group__name=value`."""
    settings = copy.deepcopy(Settings().results_settings())
    settings["protocol"] |= {"seed": seed, "num_phases": 1}
    for name, value in changes.items():
        group, key = name.split("__")
        settings[group][key] = value
    phases = [
        {
            "phase": i,
            "num_seen": 5 * (i + 1),
            "heads": {
                head: {"accuracy": accuracy, "group_accuracies": [accuracy] * (i + 1)}
                for head in ("classifier", "nme")
            },
            "stages": {},
            "seconds": {"train": 60.0 * (i + 1), "evaluate": 1.0},
        }
        for i, accuracy in enumerate(accuracies)
    ]
    return {
        "prediction_head": "classifier",
        "protocol": {
            "dataset": settings["protocol"]["dataset"],
            "num_phases": settings["protocol"]["num_phases"],
            "exemplars_per_class": settings["exemplar"]["exemplars_per_class"],
            "exemplars_total": 0,
            "seed": seed,
            "hash": f"hash{seed}",
        },
        "settings": settings,
        "phases": phases,
    }


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
    mean, half_width = group.accuracies("classifier")[1]
    assert mean == pytest.approx(0.6)
    assert half_width == pytest.approx(12.706 * 0.1, rel=1e-3)  # t of 1 degree of freedom
    assert group.accuracies("nme")[0] == (pytest.approx(0.9), pytest.approx(0, abs=1e-9))
    mean, half_width = group.metric("classifier", "forgetting")
    assert (mean, half_width) == (pytest.approx(0.3), pytest.approx(1.2706, rel=1e-3))
    assert warnings(runs, [group]) == []


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
    assert any("Runs on different data" in text and "c, d, e, ..." in text for text in found)
    assert not any("repeats" in text for text in found)
    same = load_runs(write(on("a b", "files-1"), on("a b", "files-1", 1)))
    (group,) = group_runs(same)
    assert len(group.runs) == 2
    assert warnings(same, [group]) == []


def test_different_protocols_are_warned_of(write):
    runs = load_runs(write(contents(), contents(exemplar__exemplars_per_class=5)))
    (warning,) = warnings(runs, group_runs(runs))
    assert warning.startswith("Runs with different protocols: exemplars_per_class is 20 (")
    assert "; 5 (" in warning


def test_unfinished_runs_and_uneven_seeds_are_warned_of(write):
    runs = load_runs(write(contents(), contents(5, (0.9,), training__method="icarl")))
    found = " ".join(warnings(runs, group_runs(runs)))
    assert "has 1 of 2 phases" in found
    assert "same seeds" in found
    assert "protocols" not in found


def test_the_table_beside_the_paper():
    runs = load_runs([str(RESULTS / "cifar100_cpu_lwf.json")])
    table = tables.beside_the_paper(group_runs(runs))
    (row,) = table.rows
    assert row[:3] == ("lwf, herding", "5", "53.09")
    assert row[3:7] == ("49.59", "+3.50", "52.44", "+0.65")
    assert row[7:] == ("23.88", "43.36", "-19.48")
    assert "with the balanced fine-tune; 20/12/15 epochs" in table.notes[-1]


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
    images, labels = strips(pair, most=8)
    assert images.shape == (2, 2, 6, 1)
    assert labels.tolist() == [0, 1]
    assert images[0, 0, ::2, 0].tolist() == [10, 13, 129]


def test_ticks_cover_the_range_with_round_numbers():
    assert ticks(45.7, 65.9) == [45, 50, 55, 60, 65, 70]
    assert ticks(0.013, 0.095) == pytest.approx([0, 0.02, 0.04, 0.06, 0.08, 0.1])
    assert len(ticks(3.0, 3.0)) >= 2


def test_a_line_of_one_point_and_a_flat_one_can_be_drawn():
    series = [Series(0, "a", [5], [50.0]), Series(9, "b", [5], [50.0], [0.0])]
    Page(line_chart(series, "x", "y", "d"))


def test_markdown_cells_keep_their_columns():
    assert markdown.escape("a|b\n*c*") == "a\\|b \\*c\\*"
