"""Real photographs: 10 classes, then 3, 1 and 2 by separate processes equal a run that knew."""

import collections
import json
import os
import pathlib
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.sources import open_source
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_arrays, read_json
from mnemonics_tf.settings import RunSettings, Settings
from tests.quick_runs import nothing_to_look_at

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TEST_DATA = os.environ.get("MNEMONICS_TEST_DATA", "")

#: of a class, by part
IMAGES = {"train": 8, "val": 2}

VALUES = {
    "dataset": "folder",
    "image_size": 24,
    "method": "lucir",
    "weight_transfer": True,
    "base_epochs": 1,
    "epochs": 1,
    "finetune_epochs": 0,
    "exemplars": "mnemonics",
    "exemplars_per_class": 3,
    "inner_steps": 2,
    "outer_steps": 2,
    "validation_every": 1,
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> pathlib.Path:
    """Folders of 10, 3, 1 and 2 classes, and one of all of them."""
    if not TEST_DATA:
        pytest.skip("MNEMONICS_TEST_DATA is not set: it names the folder with the test archives")
    root = tmp_path_factory.mktemp("photographs")
    kept = collections.Counter()
    with tarfile.open(pathlib.Path(TEST_DATA) / "tiny-imagenet-20.tar") as tar:
        for member in tar:
            *_, part, name, file = pathlib.PurePath("/", member.name).parts[-3:]
            kept[part, name] += member.isfile()
            if member.isfile() and kept[part, name] <= IMAGES.get(part, 0):
                path = root / "images" / part / name / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(tar.extractfile(member).read())
    names = sorted(path.name for path in (root / "images" / "train").iterdir())[:16]
    # The new ones are not the last of all: their numbers are none of their places by name.
    groups = {"three": names[:3], "ten": names[3:13], "two": names[13:15], "one": names[15:]}
    for folder, members in (*groups.items(), ("all", names)):
        for part in IMAGES:
            (root / folder / part).mkdir(parents=True)
            for name in members:
                (root / folder / part / name).symlink_to(root / "images" / part / name)
    return root


def settings_for(data_dir: pathlib.Path, run_dir: pathlib.Path, **more) -> Settings:
    run = RunSettings(run_dir=str(run_dir), data_dir=str(data_dir))
    return Settings(run=run).changed(**VALUES, **more)


def train(settings: Settings) -> RunDirectory:
    with nothing_to_look_at():
        Experiment(settings, open_source(settings), tf.distribute.get_strategy()).run()
    return RunDirectory(settings.run.run_dir)


def learn(run_dir: pathlib.Path, data_dir: pathlib.Path, *flags: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mnemonics_tf.learn"]
        + [f"--run_dir={run_dir}", f"--data_dir={data_dir}", *flags],
        cwd=REPOSITORY,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_ten_classes_then_three_then_one_then_two(photographs, tmp_path):
    ours = train(
        settings_for(photographs / "ten", tmp_path / "ours", base_classes=10, num_phases=0)
    )
    told = learn(ours.root, photographs / "three")
    assert "learn beside" not in told
    told = learn(ours.root, photographs / "one", "--noexport")
    assert "1 new class would have to learn from too little: theirs stay as chosen" in told
    told = learn(ours.root, photographs / "two", "--noexport")
    assert "phase 3/3 done: 16 classes" in told

    phases = [read_json(ours.classes)["phases"][0]]
    phases += [read_json(ours.learned(index))["classes"] for index in (1, 2, 3)]
    assert list(map(len, phases)) == [10, 3, 1, 2]
    wanted = settings_for(
        photographs / "all", tmp_path / "theirs", phase_classes=json.dumps(phases)
    )
    theirs = train(wanted)
    for index in range(4):
        for kind in (RunDirectory.model, RunDirectory.exemplars, RunDirectory.predictions):
            found, expected = (read_arrays(kind(each, index)) for each in (ours, theirs))
            assert found.keys() == expected.keys()
            for name, array in expected.items():
                np.testing.assert_array_equal(found[name], array, err_msg=f"{index} {name}")
    results = [read_json(each.results) for each in (ours, theirs)]
    assert results[0]["summary"] == results[1]["summary"]
    assert results[0]["class_names"] == results[1]["class_names"]
    assert sorted(path.name for path in (ours.export / "folder").iterdir()) == ["2"]
