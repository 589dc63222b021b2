"""The Python of docs/python.md runs, in the order of the page, and does what the page says."""

import pathlib
import re

import pytest

from mnemonics_tf.run.directory import RunDirectory

pytestmark = pytest.mark.slow

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "python.md"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder in which the page's Python was executed, and the names that it left."""
    folder = tmp_path_factory.mktemp("page")
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S):
            file = re.match(r"# (\w+\.py)\n", block)
            if file:
                (folder / file[1]).write_text(block)
            else:
                exec(compile(block, str(PAGE), "exec"), names)
    return folder, names


def test_exemplars_are_what_the_page_prints(place):
    _, names = place
    assert names["exemplars"].shape == (10, 8, 8, 1)
    report = names["report"]
    assert report.held_out_accuracy_end == max(score for _, score in report.validations)
    assert len(report.meta_losses) == 20


def test_a_run_of_the_notebook_is_that_of_the_command(place):
    directory = RunDirectory(place[0] / "runs" / "notebook")
    log = directory.log.read_text()
    for told in ("digits: ", "phase 0/1 train epoch 2/2", "phase 1/1 done: 10 classes"):
        assert told in log
    assert directory.results.exists()


def test_a_run_used_the_parts_of_the_page(place):
    folder, names = place
    last = names["results"]["phases"][-1]
    assert last["num_seen"] == 6
    assert "feature_distillation" in last["stages"]["train"]
    assert len(last["stages"]["exemplars"]["meta_loss"]) == 5
    assert last["memory"]["bytes"] == 6 * (3 + 4 * 16 * 16 // 2)  # half a byte a pixel
    assert (folder / "runs" / "own" / "export" / "my_parts_stripes").exists()


def test_points_learned_to_teach_a_regression(place):
    assert float(place[1]["result"].outer_loss) < 1.0
