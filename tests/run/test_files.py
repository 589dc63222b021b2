import errno
import io
import json
import os
import pickle
import stat
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from mnemonics_tf.arrays import check_shapes
from mnemonics_tf.errors import UserError
from mnemonics_tf.run import files
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import (
    check_path,
    read_arrays,
    read_json,
    remove_leftovers,
    remove_tree,
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
    monkeypatch.setattr(files, "open", lambda *_: FullDisk(), raising=False)
    with pytest.raises(UserError, match="disk is full .*: could not write .*arrays.npz; free some"):
        write_arrays(path, {"a": np.arange(4)})
    assert read_arrays(path)["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_directory_that_cannot_be_written(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files, "open", refuse, raising=False)
    with pytest.raises(UserError, match="can't be written .*pass a place that can be written"):
        write_text(tmp_path / "note.txt", "new")
    assert names_in(tmp_path) == []


def test_a_file_in_the_place_of_the_directory(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        write_text(tmp_path / "run" / "note.txt", "new")


def test_other_errors_stay_what_they_are(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(files, "open", fail, raising=False)
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


def zipped(path, name: str, contents: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, contents)


def array_file(shape: str, descr: str = "'<f4'", data: bytes = b"") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


HOSTILE_ARRAYS = {
    "terabytes claimed": array_file("(1000000, 1000000)"),
    "more than 64 bits": array_file("(99999999999, 99999999999, 99999999999)"),
    "negative": array_file("(-1,)", data=bytes(4)),
    "code in the header": array_file("(__import__('os').getpid(),)"),
    "objects": array_file("(1,)", "'|O'", bytes(8)),
    "objects in a record": array_file("(1,)", "[('a', '|O')]", bytes(8)),
    "an unknown type": array_file("(1,)", "'no type'"),
    "bytes left over": array_file("(1,)", data=bytes(100)),
    "no header": b"\x93NUMPY\x01\x00\xff\xff{",
    "another version": b"\x93NUMPY\x09\x00",
    "a pickle": pickle.dumps([1, 2]),
}


@pytest.mark.parametrize("contents", HOSTILE_ARRAYS)
def test_hostile_arrays(tmp_path, contents):
    path = tmp_path / "x.npz"
    zipped(path, "a.npy", HOSTILE_ARRAYS[contents])
    with pytest.raises(UserError, match="x.npz is damaged or no array file"):
        read_arrays(path)


def test_an_archive_that_unpacks_to_gigabytes(tmp_path):
    path = tmp_path / "x.npz"
    zipped(path, "a.npy", array_file("(10000000,)", data=bytes(40_000_000)), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match="a.npy is compressed"):
        read_arrays(path)


def test_a_single_array_or_a_pickle_in_the_place_of_an_archive(tmp_path):
    path = tmp_path / "x.npz"
    for contents in (array_file("(1,)", data=bytes(4)), pickle.dumps({"a": 1})):
        path.write_bytes(contents)
        with pytest.raises(UserError, match="x.npz is damaged or no array file"):
            read_arrays(path)


def test_orders_and_kinds_of_arrays(tmp_path):
    arrays = {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "text": np.array(["a", "bc"]),
        "truth": np.array([True, False]),
        "nothing": np.zeros((3, 0), np.float16),
        "large": np.arange(3_000_000, dtype=np.int8),
    }
    write_arrays(tmp_path / "x.npz", arrays)
    for name, array in read_arrays(tmp_path / "x.npz").items():
        np.testing.assert_array_equal(array, arrays[name])
        array.flags.writeable = True  # as np.load gives them


def test_nothing_is_written_through_links(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    directory = RunDirectory(tmp_path / "run")
    directory.root.mkdir()
    for name in (".lock", ".tmp-settings.json", "settings.json"):
        (directory.root / name).symlink_to(victim)
    write_json(directory.settings, {})
    with pytest.raises(UserError, match="can't be written"), directory.locked():
        pass
    assert victim.read_text() == "precious"
    assert read_json(directory.settings) == {}


def test_what_a_killed_write_left_is_no_obstacle(tmp_path):
    (tmp_path / ".tmp-note.txt").write_text("half")
    write_text(tmp_path / "note.txt", "whole")
    assert names_in(tmp_path) == ["note.txt"]


@pytest.mark.parametrize("kind", ["missing", "text", "shape"])
def test_arrays_that_do_not_fit(kind):
    arrays = {"a": np.zeros((2, 3)), "b": np.zeros(4)}
    arrays |= {"missing": {"a": None}, "text": {"a": np.array("x")}, "shape": {"a": np.zeros(6)}}[
        kind
    ]
    arrays = {name: array for name, array in arrays.items() if array is not None}
    with pytest.raises(UserError, match=r"model.npz does not fit .* 'a' .* of shape \(2, 3\)"):
        check_shapes(arrays, {"a": (2, 3), "b": (4,)}, "model.npz")


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
        "import sys; from mnemonics_tf.run.directory import RunDirectory\n"
        "with RunDirectory(sys.argv[1]).locked(): pass"
    )
    command = [sys.executable, "-c", attempt, str(directory.root)]
    with directory.locked():
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "another process works on" in refused.stderr
    assert subprocess.run(command, check=False).returncode == 0  # the lock is free again


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    directory = RunDirectory(tmp_path)
    os.mkfifo(directory.results)
    for read in (read_json, read_arrays):
        with pytest.raises(UserError, match=r"results\.json is no regular file"):
            read(directory.results)
        with pytest.raises(UserError, match="is no regular file"):
            read(tmp_path)
    with pytest.raises(UserError, match="is no regular file"), directory.locked():
        pass


def test_folders_among_the_files_of_a_phase(tmp_path):
    (tmp_path / ".tmp-x" / "inside").mkdir(parents=True)
    (tmp_path / ".tmp-y").write_text("")
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".tmp-x"]
    (tmp_path / "x").mkdir()
    for name in ("x", ".tmp-z"):
        (tmp_path / name).mkdir(exist_ok=True)
        with pytest.raises(UserError, match=f"{name} is a folder, where a file is to be written"):
            write_text(tmp_path / name.removeprefix(".tmp-"), "text")


def test_a_folder_in_which_this_user_may_open_nothing(tmp_path, monkeypatch):
    """Root may open all, hence the pretence."""
    check_path("--data_dir", tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.X_OK)
    check_path("--data_dir", tmp_path / "not" / "there")
    with pytest.raises(UserError, match=f"--data_dir={tmp_path} is a folder in which .*nothing"):
        check_path("--data_dir", tmp_path)


def test_what_is_removed_is_never_what_a_link_points_to(tmp_path):
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    (tmp_path / "kept" / "inside").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("kept")
    (tmp_path / "broken").symlink_to("gone")
    for name in ("folder", "file", "link", "broken", "nothing"):
        remove_tree(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "inside").is_dir()


@pytest.mark.parametrize(
    ("path", "reason"),
    [("a\0b", "a NUL"), ("x" * 300, "File name too long"), ("x/" * 3000, "6000 characters")],
)
def test_paths_that_no_file_can_have(path, reason):
    check_path("--data_dir", "not/there/yet")
    with pytest.raises(UserError, match=f"--data_dir=.*{reason}") as refused:
        check_path("--data_dir", path)
    assert len(str(refused.value)) < 250
