import errno
import io
import json
import os
import stat
import subprocess
import sys

import numpy as np
import pytest

from mnemonics_tf import run_directory
from mnemonics_tf.errors import UserError
from mnemonics_tf.run_directory import (
    RunDirectory,
    read_arrays,
    read_json,
    write_arrays,
    write_atomically,
    write_json,
    write_text,
)


def names_in(directory) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_is_written_with_its_directories(tmp_path):
    path = tmp_path / "phases" / "00" / "note.txt"
    write_text(path, "grün\n")
    assert path.read_bytes() == "grün\n".encode()
    assert names_in(path.parent) == ["note.txt"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path, failure):
    path = tmp_path / "note.txt"
    write_text(path, "old")

    def write(stream):
        stream.write(b"half of the ne")
        raise failure

    with pytest.raises(failure):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["note.txt"]


def test_the_old_file_stands_until_the_new_one_is_on_disk_and_its_name_follows(
    tmp_path, monkeypatch
):
    path = tmp_path / "note.txt"
    write_text(path, "old")
    synced = []
    fsync = os.fsync

    def watched_fsync(descriptor):
        fsync(descriptor)
        status = os.fstat(descriptor)
        size = "directory" if stat.S_ISDIR(status.st_mode) else status.st_size
        synced.append((path.read_text(), size))

    monkeypatch.setattr(os, "fsync", watched_fsync)
    write_text(path, "newer")
    assert synced == [("old", 5), ("newer", "directory")]
    assert path.read_text() == "newer"


class FullDisk(io.BytesIO):
    """A stream whose disk has no room."""

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "arrays.npz"
    write_arrays(path, {"a": np.arange(3)})
    monkeypatch.setattr(run_directory, "open", lambda *_: FullDisk(), raising=False)
    with pytest.raises(UserError, match="disk is full .*: could not write .*arrays.npz; free some"):
        write_arrays(path, {"a": np.arange(4)})
    assert read_arrays(path)["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_directory_that_cannot_be_written(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(run_directory, "open", refuse, raising=False)
    with pytest.raises(UserError, match="can't be written .*pass a writable directory"):
        write_text(tmp_path / "note.txt", "new")
    assert names_in(tmp_path) == []


def test_a_file_in_the_place_of_the_directory(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        write_text(tmp_path / "run" / "note.txt", "new")


def test_other_errors_stay_what_they_are(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(run_directory, "open", fail, raising=False)
    with pytest.raises(OSError, match="Input/output"):
        write_text(tmp_path / "note.txt", "new")


def test_json_there_and_back(tmp_path):
    value = {"a": [1, 2.5, None], "b": {"c": "ü"}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text) == value
    assert text.endswith("}\n")


@pytest.mark.parametrize("contents", [b"", b'{"a": [1, 2', b"\xff\xfe\x00"])
def test_damaged_json(tmp_path, contents):
    path = tmp_path / "x.json"
    path.write_bytes(contents)
    with pytest.raises(UserError, match="x.json is damaged"):
        read_json(path)


def test_arrays_there_and_back(tmp_path):
    arrays = {
        "stem/kernel": np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32),
        "group:name": np.array([1, 2], np.int32),
        "text": np.array("fingerprint"),
        "empty": np.zeros((0, 2), np.uint8),
    }
    write_arrays(tmp_path / "x.npz", arrays)
    loaded = read_arrays(tmp_path / "x.npz")
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == array.dtype


def test_damaged_arrays(tmp_path):
    path = tmp_path / "x.npz"
    write_arrays(path, {"a": np.arange(1000)})
    whole = bytearray(path.read_bytes())
    for contents in (b"", b"text", whole[: len(whole) // 2], whole[: len(whole) - 30]):
        path.write_bytes(contents)
        with pytest.raises(UserError, match="x.npz is damaged"):
            read_arrays(path)
    whole[500] ^= 1
    path.write_bytes(whole)
    with pytest.raises(UserError, match="x.npz is damaged"):
        read_arrays(path)


def test_python_objects_are_not_unpickled(tmp_path):
    ran = []

    class Trap:
        def __reduce__(self):
            return (ran.append, (1,))

    path = tmp_path / "x.npz"
    np.savez(path, a=np.array([Trap()], dtype=object))
    with pytest.raises(UserError, match="x.npz is damaged or no array file"):
        read_arrays(path)
    assert not ran


def test_missing_arrays(tmp_path):
    with pytest.raises(UserError, match="x.npz is missing"):
        read_arrays(tmp_path / "x.npz")


def test_phases_lie_apart(tmp_path):
    directory = RunDirectory(str(tmp_path))
    files = {
        make(index)
        for make in (directory.record, directory.model, directory.exemplars, directory.predictions)
        for index in (0, 1, 10)
    }
    assert len(files) == 12
    assert {path.parent.name for path in files} == {"00", "01", "10"}
    assert directory.results == tmp_path / "results.json"


def test_a_second_process_on_the_same_run_is_refused(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    attempt = (
        "import sys; from mnemonics_tf.run_directory import RunDirectory\n"
        "with RunDirectory(sys.argv[1]).locked(): pass"
    )
    command = [sys.executable, "-c", attempt, str(directory.root)]
    with directory.locked():
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "another process works on" in refused.stderr
    assert subprocess.run(command, check=False).returncode == 0  # the lock is free again
