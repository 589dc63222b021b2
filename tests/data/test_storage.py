"""Digests: what tells the images of a class from others, wherever they lie."""

import os
import shutil

import numpy as np
import pytest

from mnemonics_tf.data.records import RecordStorage
from mnemonics_tf.data.storage import FileStorage
from mnemonics_tf.errors import UserError

NAMES = [f"train/cat/{i}.png" for i in range(6)]


@pytest.fixture
def files(tmp_path):
    """Six files of one class, of equal size."""
    root = tmp_path / "here"
    (root / "train" / "cat").mkdir(parents=True)
    for name in NAMES:
        (root / name).write_bytes(name.encode() * 3)
    return root


def digest(root, names=NAMES, sampled=6) -> bytes:
    return FileStorage(root).digest(np.array([os.fsencode(name) for name in names]), sampled)


def test_the_digest_of_files_is_the_same_wherever_they_lie(files, tmp_path):
    before = digest(files)
    moved = shutil.copytree(files, tmp_path / "there" / "deeper")
    (moved / "train").rename(moved / "training")
    os.utime(moved / "training" / "cat" / "0.png", (0, 0))
    names = [name.replace("train/", "training/") for name in reversed(NAMES)]
    assert digest(moved, names) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / NAMES[3]).write_bytes(b"?" * len(NAMES[3]) * 3),
        lambda root: (root / NAMES[3]).write_bytes(b"longer" * 100),
        lambda root: [(root / NAMES[3]).rename(root / "x"), (root / "x").rename(root / NAMES[3])],
    ],
    ids=["contents", "size", "nothing"],
)
def test_the_digest_of_files_tells_other_files(files, change, request):
    before = digest(files)
    change(files)
    assert (digest(files) == before) == ("nothing" in request.node.name)


def test_another_name_is_another_digest(files):
    (files / NAMES[0]).rename(files / "train/cat/00.png")
    assert digest(files, ["train/cat/00.png", *NAMES[1:]]) != digest(files, NAMES[1:])


def test_few_files_are_read_and_those_are_the_same_each_time(files):
    """Of the others names and sizes count: that is what the digest can miss."""
    before = digest(files, sampled=2)
    (files / NAMES[2]).write_bytes(b"?" * len(NAMES[2]) * 3)
    assert digest(files, sampled=2) == before
    (files / NAMES[5]).write_bytes(b"?" * len(NAMES[5]) * 3)
    assert digest(files, sampled=2) != before


def test_a_file_that_went_is_named(files):
    (files / NAMES[1]).unlink()
    with pytest.raises(UserError, match=r"train/cat/1\.png can't be read"):
        digest(files)


def test_the_digest_of_records_is_of_their_checksums():
    one, two = RecordStorage(["a"]), RecordStorage(["b", "c"])
    keys = np.array([[0, 12, 100, 7], [0, 128, 90, 8]])
    other_shards = np.array([[0, 12, 100, 7], [1, 12, 90, 8]])
    assert one.digest(keys, 1) == two.digest(other_shards, 1)
    for column, row in ((2, 0), (3, 1)):
        changed = keys.copy()
        changed[row, column] += 1
        assert one.digest(changed, 1) != one.digest(keys, 1)
