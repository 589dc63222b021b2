import contextlib
import functools
import hashlib
import io
import os
import pickle
import socket
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnemonics_tf.data import cifar
from mnemonics_tf.errors import UserError

NAMES = ["apple", "bee", "cloud"]
IMAGES_PER_CLASS = {"train": 4, "test": 2}
FORMS = ["cifar-100-python", "cifar-100-binary"]
PACKINGS = ["", ".tar.gz", ".tar.xz"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def make_parts(seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns split -> pixels uint8 `[n, 3072]` as in the official files, fine labels `[n]`."""
    random = np.random.RandomState(seed)
    parts = {}
    for split, count in IMAGES_PER_CLASS.items():
        labels = random.permutation(np.repeat(np.arange(len(NAMES), dtype=np.uint8), count))
        parts[split] = random.randint(256, size=(len(labels), 3072)).astype(np.uint8), labels
    return parts


def python_files(parts) -> dict[str, bytes]:
    files = {
        split: pickle.dumps({b"data": pixels, b"fine_labels": labels.tolist()})
        for split, (pixels, labels) in parts.items()
    }
    return {**files, "meta": pickle.dumps({b"fine_label_names": [n.encode() for n in NAMES]})}


def binary_files(parts) -> dict[str, bytes]:
    files = {}
    for split, (pixels, labels) in parts.items():
        records = np.concatenate([labels[:, None] // 2, labels[:, None], pixels], axis=1)
        files[f"{split}.bin"] = records.tobytes()
    return {**files, "fine_label_names.txt": ("\n".join(NAMES) + "\n\n").encode()}


def files_of(form: str, parts) -> dict[str, bytes]:
    return python_files(parts) if form == "cifar-100-python" else binary_files(parts)


def contents_of(files: dict[str, bytes]) -> cifar.Contents:
    md5 = {member: hashlib.md5(data).hexdigest() for member, data in files.items()}
    return cifar.Contents(len(NAMES), IMAGES_PER_CLASS, md5)


def put(folder: Path, form: str, packing: str, files: dict[str, bytes]) -> Path:
    """Writes `files` as a folder (no packing) or as an archive, and returns its path."""
    path = folder / (form + packing)
    if not packing:
        path.mkdir()
        for member, data in files.items():
            (path / member).write_bytes(data)
        return path
    with tarfile.open(path, "w:" + packing.rpartition(".")[2]) as tar:
        for member, data in files.items():
            entry = tarfile.TarInfo(f"{form}/{member}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def prepare_with_tfds(folder: Path, parts, file_format: str = "tfrecord", version: str = "3.0.2"):
    import tensorflow_datasets as tfds

    features = {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=(32, 32, 3)),
        "label": tfds.features.ClassLabel(names=NAMES),
    }
    examples = {}
    for split, (pixels, labels) in parts.items():
        images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        examples[split] = [
            (i, {"id": f"{split}_{i:05d}", "image": image, "label": label})
            for i, (image, label) in enumerate(zip(images, labels, strict=True))
        ]
    tfds.dataset_builders.store_as_tfds_dataset(
        name="cifar100",
        version=version,
        features=tfds.features.FeaturesDict(features),
        split_datasets=examples,
        data_dir=folder,
        file_format=file_format,
    )


def load(place: Path, files: dict[str, bytes] | None = None) -> cifar.Cifar100:
    files = python_files(make_parts()) if files is None else files
    return cifar.load_cifar100(str(place), False, contents_of(files))


def assert_holds(source: cifar.Cifar100, parts) -> None:
    assert source.class_names == tuple(NAMES)
    assert source.image_shape == (32, 32, 3)
    for split, images_of in [("train", source.training_set), ("test", source.test_set)]:
        pixels, labels = parts[split]
        expected = [
            image.reshape(3, 32, 32).transpose(1, 2, 0)
            for c in (2, 0, 1)
            for image in pixels[labels == c]
        ]
        np.testing.assert_array_equal(images_of([2, 0, 1]).images, expected)


# Every form


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("named", ["folder around it", "itself"])
def test_every_form_gives_the_same_images(tmp_path, form, packing, named):
    parts = make_parts()
    path = put(tmp_path, form, packing, files_of(form, parts))
    assert_holds(load(tmp_path if named == "folder around it" else path), parts)


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_prepared_tfds_data_gives_the_same_images(tmp_path, file_format):
    parts = make_parts()
    prepare_with_tfds(tmp_path, parts, file_format)
    assert_holds(load(tmp_path), parts)


def test_channels_and_rows_lie_where_they_belong(tmp_path):
    parts = make_parts()
    pixels, labels = parts["train"]
    put(tmp_path, FORMS[0], "", python_files(parts))
    image = load(tmp_path).training_set([labels[0]]).images[0]
    row, column = 3, 7
    planes = [pixels[0, plane * 1024 + row * 32 + column] for plane in range(3)]
    assert image[row, column].tolist() == planes


@pytest.mark.skipif(
    "MNEMONICS_TEST_DATA" not in os.environ,
    reason="MNEMONICS_TEST_DATA does not name a folder with cifar-100-python.tar.xz or .tar.gz",
)
@pytest.mark.slow
def test_the_real_archive():
    source = cifar.load_cifar100(os.environ["MNEMONICS_TEST_DATA"], False)
    assert source.training_counts().tolist() == [500] * 100
    assert len(source.test_set(range(100))) == 10_000
    assert [source.class_names[c] for c in (68, 56, 78)] == ["road", "palm_tree", "snake"]
    # The first record of the training file is an image of cattle, as the raw bytes have it.
    first = source.training_set([19]).images[0]
    assert source.class_names[19] == "cattle"
    assert first[0, 0].tolist() == [255, 255, 255]
    assert first[16, 16].tolist() == [122, 70, 79]
    images = source.training_set(range(100)).images
    mean, std = images.mean((0, 1, 2)) / 255, images.std((1, 2)).mean(0) / 255
    np.testing.assert_allclose(source.channel_mean, mean, atol=1e-3)
    np.testing.assert_allclose(source.channel_std, std, atol=1e-3)


# What is preferred


def test_order_of_preference(tmp_path):
    parts = {place: make_parts(seed) for seed, place in enumerate(["binary", "python", "tfds"])}
    python = python_files(parts["python"])
    put(tmp_path, "cifar-100-binary", "", binary_files(parts["binary"]))
    assert_holds(load(tmp_path, python), parts["binary"])
    put(tmp_path, "cifar-100-python", ".tar.gz", python)
    assert_holds(load(tmp_path, python), parts["python"])
    prepare_with_tfds(tmp_path, parts["tfds"])
    assert_holds(load(tmp_path, python), parts["tfds"])


def test_newest_prepared_version_wins(tmp_path):
    old, new = make_parts(1), make_parts(2)
    prepare_with_tfds(tmp_path, new, version="3.0.10")
    prepare_with_tfds(tmp_path, old, version="3.0.2")
    assert_holds(load(tmp_path), new)


def test_data_at_hand_is_not_downloaded_again(tmp_path):
    files = python_files(make_parts())
    put(tmp_path, FORMS[0], "", files)
    source = cifar.load_cifar100(str(tmp_path), True, contents_of(files))
    assert_holds(source, make_parts())


@pytest.mark.parametrize("exists", [True, False])
def test_missing_data_ends_at_once_and_says_what_to_do(tmp_path, exists):
    place = tmp_path if exists else tmp_path / "nowhere"
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        cifar.load_cifar100(str(place), False)
    assert time.monotonic() - start < 2
    for part in (str(place), "cifar-100-python.tar.gz", "cifar-100-binary.tar.xz", "--download"):
        assert part in str(caught.value)


def test_failed_download_is_a_clear_line(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def fail(*arguments, **keywords):
        raise ConnectionError("no route")

    monkeypatch.setattr(tfds, "builder", fail)
    with pytest.raises(UserError, match="could not be downloaded.*no route"):
        cifar.load_cifar100(str(tmp_path), True)


# Data that is not what it should be


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
