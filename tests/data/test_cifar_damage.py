"""CIFAR-100 that is damaged, cut, hostile, or something else."""

import contextlib
import functools
import io
import os
import pickle
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnemonics_tf.data import cifar
from mnemonics_tf.errors import UserError
from tests.data.cifar_files import (
    FORMS,
    NAMES,
    PACKINGS,
    assert_holds,
    binary_files,
    files_of,
    load,
    make_parts,
    prepare_with_tfds,
    put,
    python_files,
)


class Malicious:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("member", ["train", "meta"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, member):
    target = tmp_path / "executed"
    files = python_files(make_parts())
    files[member] = pickle.dumps({b"data": Malicious(target)})
    put(tmp_path, FORMS[0], "", files)
    with pytest.raises(UserError, match=rf"'{member}'.*{os.mkdir.__module__}\.mkdir"):
        load(tmp_path, files)
    assert not target.exists()


@pytest.mark.parametrize("member", ["train", "test", "meta"])
def test_wrong_checksum_is_refused_before_anything_is_unpickled(tmp_path, member, monkeypatch):
    files = python_files(make_parts())
    put(tmp_path, FORMS[0], ".tar.gz", {**files, member: pickle.dumps(Malicious(tmp_path / "no"))})
    monkeypatch.setattr(cifar, "_unpickle", lambda *arguments: pytest.fail("it was unpickled"))
    with pytest.raises(UserError, match=f"wrong checksum: '{member}'"):
        load(tmp_path, files)


@pytest.mark.parametrize("packing", [".tar.gz", ".tar.xz"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_truncated_archive_is_a_clear_line(tmp_path, packing, share):
    path = put(tmp_path, FORMS[0], packing, python_files(make_parts()))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=f"{path.name}.*(cannot be read|is not complete)"):
        load(tmp_path)


@pytest.mark.parametrize("packing", [".tar.gz", ".tar.xz"])
def test_archive_with_flipped_bytes_is_a_clear_line(tmp_path, packing):
    files = python_files(make_parts())
    path = put(tmp_path, FORMS[0], packing, files)
    data = bytearray(path.read_bytes())
    middle = slice(len(data) // 3, len(data) // 3 + 100)
    data[middle] = bytes(255 - byte for byte in data[middle])
    path.write_bytes(data)
    with pytest.raises(UserError, match="cannot be read as a tar archive|wrong checksum"):
        load(tmp_path, files)


def test_file_that_is_no_archive_is_a_clear_line(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no archive at all")
    with pytest.raises(UserError, match="notes.txt.*cannot be read as a tar archive"):
        load(path)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("form", FORMS)
def test_missing_member_is_a_clear_line(tmp_path, form, packing):
    files = files_of(form, make_parts())
    del files[min(files)]
    put(tmp_path, form, packing, files)
    with pytest.raises(UserError, match=f"{form}.*is not complete: expected train, test, meta"):
        load(tmp_path)


def test_oversized_member_is_refused_unread(tmp_path, monkeypatch):
    put(tmp_path, FORMS[0], ".tar.gz", python_files(make_parts()))
    monkeypatch.setattr(cifar, "_MAX_MEMBER_BYTES", 10_000)
    with pytest.raises(UserError, match="too large.*'cifar-100-python/train'"):
        load(tmp_path)


def test_members_outside_the_folder_are_ignored(tmp_path):
    parts = make_parts()
    path = tmp_path / "cifar-100-python.tar.gz"
    entries = {f"../{member}": b"evil" for member in python_files(parts)}
    entries |= {f"./cifar-100-python/{m}": data for m, data in python_files(parts).items()}
    with tarfile.open(path, "w:gz") as tar:
        for name, data in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    assert_holds(load(tmp_path), parts)
    assert sorted(tmp_path.iterdir()) == [path]


def test_link_in_place_of_a_member_is_not_followed(tmp_path):
    path = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for member in ("train", "test", "meta"):
            entry = tarfile.TarInfo(f"cifar-100-python/{member}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/hostname"
            tar.addfile(entry)
    with pytest.raises(UserError, match="is not complete"):
        load(tmp_path)


def test_binary_record_cut_short_is_a_clear_line(tmp_path):
    files = binary_files(make_parts())
    put(tmp_path, FORMS[1], "", {**files, "train.bin": files["train.bin"][:-1]})
    with pytest.raises(UserError, match="train.bin.*multiple of 3074"):
        load(tmp_path)


def test_binary_form_with_a_record_missing_is_refused(tmp_path):
    files = binary_files(make_parts())
    put(tmp_path, FORMS[1], "", {**files, "test.bin": files["test.bin"][:-3074]})
    with pytest.raises(UserError, match="test part.*has 5 images.*expected 2 for each"):
        load(tmp_path)


def test_label_out_of_range_is_refused(tmp_path):
    parts = make_parts()
    pixels, labels = parts["train"]
    extra = np.append(labels, np.uint8(len(NAMES)))
    parts["train"] = np.append(pixels, pixels[:1], axis=0), extra
    put(tmp_path, FORMS[1], "", binary_files(parts))
    with pytest.raises(UserError, match="13 images.*no other labels"):
        load(tmp_path)


def test_wrong_number_of_class_names_is_refused(tmp_path):
    files = {**binary_files(make_parts()), "fine_label_names.txt": b"apple\nbee\n"}
    put(tmp_path, FORMS[1], "", files)
    with pytest.raises(UserError, match="names 2 classes; expected 3"):
        load(tmp_path)


def test_class_names_that_are_no_text_are_refused(tmp_path):
    names = "\n".join(NAMES[:-1]).encode() + b"\ncaf\xe9\n"
    put(tmp_path, FORMS[1], "", {**binary_files(make_parts()), "fine_label_names.txt": names})
    with pytest.raises(UserError, match="the class name '.*xe9' is not UTF-8"):
        load(tmp_path)


@pytest.mark.parametrize("wrong", ["shape", "key", "pickle"])
def test_python_form_that_holds_something_else_is_refused(tmp_path, wrong):
    files = python_files(make_parts())
    files["train"] = {
        "shape": pickle.dumps({b"data": np.zeros((12, 5), np.uint8), b"fine_labels": [0] * 12}),
        "key": pickle.dumps({b"images": 0}),
        "pickle": b"\x80\x05not a pickle",
    }[wrong]
    put(tmp_path, FORMS[0], "", files)
    with pytest.raises(UserError, match="'train'.*(holds uint8|cannot be read)"):
        load(tmp_path, files)


def test_damaged_prepared_data_is_a_clear_line(tmp_path):
    prepare_with_tfds(tmp_path, make_parts())
    for path in tmp_path.glob("cifar100/3.0.2/*tfrecord*"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="TFDS data.*cannot be read"):
        load(tmp_path)


def test_official_data_is_checked_by_default(tmp_path):
    put(tmp_path, FORMS[0], "", python_files(make_parts()))
    with pytest.raises(UserError, match="wrong checksum"):
        cifar.load_cifar100(str(tmp_path), False)


TARS = [".tar", ".tar.gz", ".tar.xz"]


@functools.cache
def packed(form: str, packing: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return put(Path(folder), form, packing, files_of(form, make_parts())).read_bytes()


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    form=st.sampled_from(FORMS),
    packing=st.sampled_from(TARS),
    damages=st.lists(
        st.tuples(st.floats(0, 1), st.binary(max_size=9), st.booleans()), min_size=1, max_size=4
    ),
)
def test_archives_with_random_damage(tmp_path, form, packing, damages):
    path, files = tmp_path / f"archive{packing}", files_of(form, make_parts())
    data = packed(form, packing)
    for share, new, cuts in damages:
        at = round(share * len(data))
        data = data[:at] if cuts else data[:at] + new + data[at + len(new) :]
    path.write_bytes(data)
    with contextlib.suppress(UserError):
        source = load(path, files)
        # The binary form has no checksums of its own: pixels may differ, their number may not.
        assert len(source.training_set(range(3))) == 12
        assert len(source.test_set(range(3))) == 6
    assert set(tmp_path.iterdir()) <= {tmp_path / f"archive{form}" for form in TARS}
