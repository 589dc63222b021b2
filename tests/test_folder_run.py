"""A whole run on a folder of real photographs, from files to exports."""

import collections
import os
import pathlib
import shutil
import tarfile
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.sources import open_source
from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluate import evaluate
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.run import results
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_arrays, read_json
from mnemonics_tf.run.interruption import RunInterruptedError
from mnemonics_tf.settings import (
    DataSettings,
    ExemplarSettings,
    InnerSettings,
    ModelSettings,
    OuterSettings,
    ProtocolSettings,
    RunSettings,
    Settings,
    TrainingSettings,
)
from tests.data.image_files import make_folder

pytestmark = pytest.mark.slow

TEST_DATA = os.environ.get("MNEMONICS_TEST_DATA", "")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> pathlib.Path:
    if not TEST_DATA:
        pytest.skip("MNEMONICS_TEST_DATA is not set: it names the folder with the test archives")
    root = tmp_path_factory.mktemp("photographs")
    with tarfile.open(pathlib.Path(TEST_DATA) / "tiny-imagenet-20.tar") as tar:
        # Not as an argument, which Python before 3.11.4 does not know.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(root, members=some_of(tar))
    return root / "tiny-imagenet-20"


def some_of(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yields the first 40 training and 10 test images of every class."""
    kept = collections.Counter()
    for member in tar:
        folder = member.name.rpartition("/")[0]
        kept[folder] += member.isfile()
        if kept[folder] <= (40 if "/train/" in member.name else 10):
            yield member


def settings_for(data_dir, run_dir, **protocol) -> Settings:
    return Settings(
        RunSettings(run_dir=str(run_dir), data_dir=str(data_dir)),
        ProtocolSettings(dataset="folder", **protocol),
        ModelSettings(depth=8),
        TrainingSettings(base_epochs=2, epochs=1, finetune_epochs=0),
        ExemplarSettings(exemplars_per_class=5),
        InnerSettings(inner_steps=2),
        OuterSettings(outer_steps=2, outer_batch_size=20),
        data=DataSettings(image_size=32),
    )


def run(settings: Settings) -> dict:
    return Experiment(settings, open_source(settings), tf.distribute.get_strategy()).run()


def test_ten_classes_and_twice_five(photographs, tmp_path):
    settings = settings_for(photographs, tmp_path / "run", base_classes=10, num_phases=2)
    contents = run(settings)
    assert [record["num_seen"] for record in contents["phases"]] == [10, 15, 20]
    # Chance is 10 percent in phase 0.
    assert contents["phases"][0]["heads"]["classifier"]["accuracy"] > 0.15
    assert len(set(contents["class_names"])) == 20
    assert contents["class_names"][0] == sorted(contents["class_names"])[contents["class_order"][0]]
    assert "average" in results.table(contents)
    directory = RunDirectory(tmp_path / "run")
    memory = read_arrays(directory.exemplars(2))
    assert memory["images"].shape == (100, 32, 32, 3)
    facts = read_json(directory.classes)
    assert [len(phase) for phase in facts["phases"]] == [10, 5, 5]
    check_export(photographs, directory, contents)
    # Both the model and the export, run again on the files, give what was recorded.
    assert evaluate(str(tmp_path / "run"), str(photographs), 2, from_export=False) == 0


def check_export(photographs, directory: RunDirectory, contents: dict) -> None:
    """The export decodes, resizes and crops a file as evaluation did."""
    export = tf.saved_model.load(str(directory.export / "folder" / "3"))
    names = sorted(contents["class_names"])
    files = [next(iter(sorted((photographs / "val" / name).iterdir()))) for name in names]
    answers = export.signatures["serving_bytes"](
        image_bytes=tf.constant([file.read_bytes() for file in files])
    )
    label_of = {name: label for label, name in enumerate(contents["class_names"])}
    predictions = read_arrays(directory.predictions(2))
    for name, answer in zip(names, answers["class_id"].numpy(), strict=True):
        first = np.flatnonzero(predictions["labels"] == label_of[name])[0]
        recorded = contents["class_order"][predictions["classifier"][first]]
        assert answer == recorded


@pytest.fixture
def small_classes(tmp_path) -> pathlib.Path:
    """Six classes; three have fewer training images than five exemplars."""
    counts = {"a": 12, "b": 3, "c": 9, "d": 2, "e": 9, "f": 4}
    folders = {f"train/{name}": count for name, count in counts.items()}
    return make_folder(tmp_path / "images", {**folders, **{f"val/{n}": 2 for n in counts}})


@pytest.mark.usefixtures("quick_runs")
def test_small_classes_are_kept_whole(small_classes, tmp_path, caplog):
    """Through learning, BiC's held-out images, adjustment and explicit phases."""
    (tmp_path / "phases.txt").write_text("a, b, c\nf\nd, e\n")
    settings = settings_for(
        small_classes, tmp_path / "run", phase_classes=str(tmp_path / "phases.txt")
    )
    settings = settings.changed(
        exemplars="mnemonics",
        outer_batch_size=9,
        adjust_old_exemplars=True,
        adjust_steps=2,
        method="bic",
        base_epochs=1,
        finetune_epochs=1,
    )
    with caplog.at_level("WARNING", logger="mnemonics_tf"):
        contents = run(settings)
    assert "all of them are kept" in caplog.text
    assert [record["num_seen"] for record in contents["phases"]] == [3, 4, 6]
    assert contents["class_names"] == ["a", "b", "c", "f", "d", "e"]
    memory = read_arrays(RunDirectory(tmp_path / "run").exemplars(2))
    assert np.bincount(memory["labels"]).tolist() == [5, 3, 5, 4, 2, 5]


def stop(*_):
    raise RunInterruptedError


def test_a_run_does_not_go_on_with_other_images(small_classes, tmp_path):
    settings = settings_for(small_classes, tmp_path / "run", base_classes=2, num_phases=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Experiment, "_run_phase", stop)
        with pytest.raises(RunInterruptedError):
            run(settings)
    shutil.copytree(
        small_classes / "train" / "a", small_classes / "train" / "b", dirs_exist_ok=True
    )
    with pytest.raises(UserError, match="on other data"):
        run(settings)
