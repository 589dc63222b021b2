"""The t-SNE of a real run, and what a report says where it cannot be made."""

import functools
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf import report as report_module
from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.reporting import embedding
from mnemonics_tf.reporting.embedding import embed
from mnemonics_tf.reporting.page import Embedded
from mnemonics_tf.reporting.runs import load_runs
from mnemonics_tf.run.data_facts import OtherDataError
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_arrays, read_json, write_arrays, write_json
from mnemonics_tf.settings import (
    ExemplarSettings,
    ProtocolSettings,
    RunSettings,
    Settings,
    TrainingSettings,
)
from tests.quick_runs import nothing_to_look_at

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def few_images():
    """Embeds a quarter of the images: t-SNE's time grows faster than their number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "_IMAGES_PER_CLASS", 40)
        yield


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("embedding") / "run"
    settings = Settings(
        RunSettings(run_dir=str(directory)),
        ProtocolSettings(base_classes=8, num_phases=1),
        training=TrainingSettings(base_epochs=3, epochs=1, finetune_epochs=0),
        exemplar=ExemplarSettings(exemplars_per_class=4),
    )
    with nothing_to_look_at():
        Experiment(settings, load_digits(), tf.distribute.get_strategy()).run()
    return directory


@pytest.fixture(scope="module")
def pictures(run_dir):
    (run,) = load_runs([str(run_dir)])
    experiment = report_module._opened(RunDirectory(run_dir), "")
    return embed(run, load_digits(), functools.partial(report_module._features, experiment))


def test_two_phases_and_every_way_of_choosing(pictures):
    assert [(p.phase, p.num_seen, len(p.class_names)) for p in pictures] == [(0, 8, 3), (1, 10, 5)]
    for picture in pictures:
        assert set(picture.exemplars) == {"random", "herding"}
        for groups in picture.exemplars.values():
            assert [points.shape for points in groups] == [(4, 2)] * len(picture.class_names)
        everything = np.concatenate(picture.data)
        assert everything.min() >= 0
        assert everything.max() <= 1
        assert np.isfinite(everything).all()


def test_classes_lie_apart_and_their_exemplars_among_them(pictures):
    picture = pictures[0]
    centres = np.array([points.mean(axis=0) for points in picture.data])
    own = [np.linalg.norm(p - c, axis=1).mean() for p, c in zip(picture.data, centres, strict=True)]
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * max(own)
    for points, centre in zip(picture.exemplars["herding"], centres, strict=True):
        distances = np.linalg.norm(points.mean(axis=0) - centres, axis=1)
        assert distances.min() == pytest.approx(np.linalg.norm(points.mean(axis=0) - centre))


def test_a_report_of_a_run_repeats_itself_and_holds_the_pictures(run_dir, tmp_path):
    pages = []
    for name in ("a", "b"):
        output = tmp_path / f"{name}.html"
        assert report_module.report([str(run_dir)], output, "") == 0
        pages.append(output.read_bytes())
    assert pages[0] == pages[1]
    text = pages[0].decode()
    assert "Phase 1: 10 classes known" in text
    assert text.count('class="exemplar"') == 2 * (3 + 5)
    assert "Never change once stored" in text


def test_adjusted_exemplars_are_shown_as_they_move(run_dir, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    directory = RunDirectory(copy)
    memory = ExemplarMemory.load(directory.exemplars(1))
    moved = np.where(memory.images < 250, memory.images + 5, memory.images - 5)
    ExemplarMemory(moved.astype(np.uint8), memory.labels).save(directory.exemplars(1))
    # Only classes of phase 0 have moved: those of phase 1 have no earlier version.
    output = tmp_path / "page.html"
    assert report_module.report([str(copy)], output, "") == 0
    text = output.read_text()
    assert "4.00 grey levels at 10" in text  # eight of ten classes by 5
    assert text.count('src="data:image/png;base64,') == 10 * 4 * 3  # start, now, difference


def test_nothing_of_the_run_is_executed(run_dir, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    victim = tmp_path / "written"
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.uint8, "images")])
    def features(images):
        tf.io.write_file(str(victim), "by whoever made the run")
        return {"features": tf.reshape(tf.cast(images, tf.float32), [-1, 64])}

    for version in ("1", "2"):
        path = str(copy / "export" / "digits" / version)
        tf.saved_model.save(module, path, signatures={"features": features})
    output = tmp_path / "page.html"
    assert report_module.report([str(copy)], output, "") == 0
    assert not victim.exists()
    assert "t-SNE left out" not in capsys.readouterr().err

    settings = json.loads((copy / "settings.json").read_text())
    settings["model"]["backbone"] = "os:system"
    (copy / "settings.json").write_text(json.dumps(settings))
    assert report_module.report([str(copy)], output, "") == 0
    assert "it would run code that the run names (--backbone=os:system)" in capsys.readouterr().err


def test_a_lost_model_leaves_the_pictures_out(run_dir, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    RunDirectory(copy).model(1).unlink()
    output = tmp_path / "page.html"
    assert report_module.report([str(copy)], output, "") == 0
    assert "Left out: " in output.read_text()
    assert "t-SNE left out" in capsys.readouterr().err


def test_images_that_have_changed_where_they_were_leave_the_pictures_out(
    run_dir, tmp_path, capsys, monkeypatch
):
    def refuse(*arguments, **options):
        raise OtherDataError("the training images are others")

    monkeypatch.setattr(report_module, "refuse_other_data", refuse)
    output = tmp_path / "page.html"
    assert report_module.report([str(run_dir)], output, "") == 0
    assert "t-SNE left out: the training images are others" in capsys.readouterr().err
    assert output.exists()
    with pytest.raises(OtherDataError):  # where a place is passed, it is wrong
        report_module.report([str(run_dir)], output, str(tmp_path))


def test_data_that_is_not_there_leaves_the_pictures_out(run_dir, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    settings = json.loads((copy / "settings.json").read_text())
    settings["protocol"]["dataset"] = "cifar100"
    (copy / "settings.json").write_text(json.dumps(settings))
    assert report_module.report([str(copy)], tmp_path / "page.html", "") == 0
    assert "(pass the data with --data_dir)" in capsys.readouterr().err


@pytest.fixture
def copy(run_dir, tmp_path) -> RunDirectory:
    shutil.copytree(run_dir, tmp_path / "copy")
    return RunDirectory(tmp_path / "copy")


def report(*runs: RunDirectory) -> int:
    paths = [str(run.root) for run in runs]
    return report_module.report(paths, runs[0].root.with_name("page.html"), "")


def other_names(facts: dict) -> None:
    facts["phases"][0][0] = "zero"


def other_pixels(facts: dict) -> None:
    facts["data_digests"]["training"] = "pixels-0"


@pytest.mark.parametrize("change", [other_names, other_pixels])
def test_other_data_are_refused_where_no_run_is_of_it(run_dir, copy, change, capsys):
    """Where they were passed; what lies where the run had its own leaves the t-SNE out."""
    facts = read_json(copy.classes)
    change(facts)
    write_json(copy.classes, facts)
    results = read_json(copy.results)
    results["class_names"] = [name for phase in facts["phases"] for name in phase]
    write_json(copy.results, results | {"data_digests": facts["data_digests"]})
    output = copy.root / "report.html"
    with pytest.raises(UserError, match="holds a run on other data: .*leave the t-SNE out"):
        report_module.report([str(copy.root)], output, str(copy.root))
    assert report(copy) == 0
    assert "t-SNE left out: " in (told := capsys.readouterr().err)
    assert "holds a run on other data" in told
    assert report(copy, RunDirectory(run_dir)) == 0
    assert "left out" not in capsys.readouterr().err


def test_settings_that_are_a_list(copy, capsys):
    write_json(copy.settings, [1])
    assert report(copy) == 0
    assert "holds no groups of settings" in capsys.readouterr().err


def test_a_strangers_settings_open_no_file(copy, tmp_path, capsys):
    secret = tmp_path / "secret"
    os.mkfifo(secret)  # which would be waited for
    settings = read_json(copy.settings)
    settings["protocol"]["phase_classes"] = str(secret)
    write_json(copy.settings, settings)
    assert report(copy) == 0
    assert "left out" not in capsys.readouterr().err


def test_no_class_order(copy, capsys):
    results = read_json(copy.results)
    del results["class_order"]
    write_json(copy.results, results)
    assert report(copy) == 0
    assert "has no class_order" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {"images": m["images"][..., 0]}, "holds .*images are .40, 8, 8."),
        (lambda m: m | {"images": m["images"][:, :4]}, "holds images"),
        (lambda m: m | {"images": np.repeat(m["images"], 2, axis=3)}, "holds images"),
        (lambda m: m | {"labels": m["labels"] + 1}, "holds images .* of the labels 0 to"),
        (lambda m: m | {"labels": m["labels"].astype(str)}, "holds labels <U"),
        (
            lambda m: m | {"labels": m["labels"].astype(np.int64) + 2**40},
            "holds labels int64",
        ),
        (
            lambda m: {k: np.concatenate([v[:1], v]) for k, v in m.items()},
            "holds more exemplars of",
        ),
    ],
)
def test_exemplars_that_are_not_the_phase_s(copy, change, message, monkeypatch):
    monkeypatch.setattr(report_module, "_embedded", lambda *_: Embedded("", (), "not asked for"))
    arrays = read_arrays(copy.exemplars(1))
    write_arrays(copy.exemplars(1), change(arrays))
    with pytest.raises(UserError, match=f"01/exemplars.npz {message}"):
        report(copy)
