import os
import pathlib
import shutil
import struct

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data import prepared, records, sources
from mnemonics_tf.data.records import index_records
from mnemonics_tf.data.source import InMemorySource
from mnemonics_tf.errors import UserError
from mnemonics_tf.settings import DataSettings
from tests.data.image_files import encode, smooth_image

NAMES = ["ant", "bee", "cow"]


def examples(count: int, size: int | None, seed: int) -> list[dict]:
    random = np.random.default_rng(seed)
    return [
        {
            "image": np.full((size or 20 + i, size or 30, 3), 10 * i + seed, np.uint8),
            "label": int(label),
        }
        for i, label in enumerate(random.permutation(np.arange(count) % 3))
    ]


def prepare(folder: pathlib.Path, size: int | None, features: dict | None = None, **more) -> dict:
    """Writes a set; `more` may hold other splits, and what TFDS takes beside."""
    import tensorflow_datasets as tfds

    parts = more.pop("parts", None)
    parts = parts or {"train": examples(10, size, 0), "test": examples(5, size, 1)}
    image = tfds.features.Image(shape=(size, size, 3), encoding_format="png")
    names = more.pop("names", NAMES)
    features = features or {"image": image, "label": tfds.features.ClassLabel(names=names)}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="made_up",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={split: list(enumerate(part)) for split, part in parts.items()},
        data_dir=str(folder),
        **more,
    )
    return parts


def load(folder: pathlib.Path, image_size: int = 20, **options):
    return sources.create("tfds:made_up", str(folder), False, DataSettings(image_size, **options))


def assert_holds(source, parts: dict, classes: range = range(3), test: str = "test") -> None:
    for c in classes:
        for found, part in ((source.training_set([c]), "train"), (source.test_set([c]), test)):
            expected = sorted(e["image"][0, 0, 0] for e in parts[part] if e["label"] == c)
            assert sorted(found.load_all()[:, 5, 5, 0].tolist()) == expected


@pytest.mark.parametrize("size", [12, None], ids=["in memory", "by place"])
@pytest.mark.slow
def test_a_set_by_its_name(tmp_path, size):
    parts = prepare(tmp_path, size)
    source = load(tmp_path, 0 if size else 20)
    assert isinstance(source, InMemorySource) == bool(size)
    assert source.class_names == tuple(NAMES)
    assert_holds(source, parts)


@pytest.mark.parametrize("size", [12, None], ids=["in memory", "by place"])
def test_one_class_alone(tmp_path, size):
    part = [example | {"label": 0} for example in examples(4, size, 0)]
    prepare(tmp_path, size, parts={"train": part, "test": part}, names=["ant"])
    source = load(tmp_path, 0 if size else 20)
    assert source.class_names == ("ant",)
    assert source.training_counts().tolist() == [4]


def test_sets_in_memory_may_be_stored_as_array_record(tmp_path):
    parts = prepare(tmp_path, 12, file_format="array_record")
    assert_holds(load(tmp_path, 0), parts)


def test_no_more_files_are_open_than_are_being_read(tmp_path):
    import tensorflow_datasets as tfds

    config = tfds.download.DownloadConfig(num_shards=8)
    parts = {"train": examples(20, None, 0), "test": examples(10, None, 1)}
    prepare(tmp_path, None, parts=parts, download_config=config)
    assert len(list(tmp_path.glob("made_up/1.0.0/*train*"))) == 8
    before = len(os.listdir("/proc/self/fd"))
    source = load(tmp_path)
    assert len(os.listdir("/proc/self/fd")) < before + 8
    assert_holds(source, parts)


def test_images_of_one_size_that_do_not_fit_in_memory_keep_it(tmp_path, monkeypatch):
    parts = prepare(tmp_path, 12)
    monkeypatch.setattr(prepared, "_MEMORY_LIMIT", 0)
    source = load(tmp_path, 0)
    assert not isinstance(source, InMemorySource)
    assert source.image_shape == (12, 12, 3)
    assert source.augmentation == "crop_mirror"
    assert_holds(source, parts)


# Classes and splits


@pytest.mark.parametrize("size", [12, None], ids=["in memory", "by place"])
def test_classes_without_images_are_left_out(tmp_path, caplog, size):
    parts = prepare(tmp_path, size, names=["ant", "bee", "cow", "dog", "elk"])
    for part in parts.values():
        for example in part:
            example["label"] += example["label"] > 0  # none of "bee", nor of "elk"
    shutil.rmtree(tmp_path / "made_up")
    prepare(tmp_path, size, names=["ant", "bee", "cow", "dog", "elk"], parts=parts)
    source = load(tmp_path, 0 if size else 20)
    assert source.class_names == ("ant", "cow", "dog")
    assert source.original_ids == (0, 2, 3)
    assert "2 of the 5 classes" in caplog.text
    assert "left out (first: bee, elk)" in caplog.text
    assert_holds(source, parts, (0, 2, 3))


@pytest.mark.parametrize("size", [12, None], ids=["in memory", "by place"])
def test_a_split_without_labels_is_not_the_test_part(tmp_path, caplog, size):
    without = [example | {"label": -1} for example in examples(5, size, 2)]
    parts = {"train": examples(10, size, 0), "test": without, "validation": examples(5, size, 1)}
    prepare(tmp_path, size, parts=parts)
    with caplog.at_level("INFO", logger="mnemonics_tf"):
        source = load(tmp_path, 0 if size else 20)
    assert "the split test of made_up has no labels" in caplog.text.replace("tfds:", "")
    assert "the splits train and validation of" in caplog.text
    assert "not read: test" in caplog.text
    assert_holds(source, parts, test="validation")


def test_no_split_with_labels(tmp_path):
    without = [example | {"label": -1} for example in examples(5, 12, 2)]
    prepare(tmp_path, 12, parts={"train": examples(10, 12, 0), "test": without})
    with pytest.raises(UserError, match="no labels in the splits that could be the test part"):
        load(tmp_path, 0)


def test_forms_of_a_set_are_listed(tmp_path):
    prepare(tmp_path, 12, config="small")
    prepare(tmp_path, 12, config="large")
    with pytest.raises(UserError, match="large, small: .*--dataset=tfds:made_up/large"):
        load(tmp_path, 0)
    source = sources.create("tfds:made_up/small", str(tmp_path), False)
    assert source.training_counts().sum() == 10


@pytest.mark.parametrize(
    "name",
    [
        *("", ":1.0.0", "made_up/", "made_up//1.0.0", "made_up:", "made_up:1", "made_up:*.*.*"),
        *("made_up/**a", "made_*", "made_up/[a]", "/made_up", "made_up\n", "m\0", "x" * 300),
        *("..", "../data/made_up", "made_up/..", ".", "made_up/../../x"),
    ],
)
def test_what_is_no_name_of_a_set_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(prepared, "find_prepared", None)
    with pytest.raises(UserError, match="^--dataset=tfds:.* names no set: pass") as raised:
        sources.create(f"tfds:{name}", str(tmp_path), False)
    assert str(raised.value).isprintable()


def test_sixteen_bits_need_a_size(tmp_path):
    import tensorflow_datasets as tfds

    image = tfds.features.Image(shape=(12, 12, 3), dtype=np.uint16, encoding_format="png")
    parts = {"train": examples(6, 12, 0), "test": examples(3, 12, 1)}
    wide = {
        split: [e | {"image": e["image"].astype(np.uint16) * 257} for e in part]
        for split, part in parts.items()
    }
    prepare(
        tmp_path, 12, {"image": image, "label": tfds.features.ClassLabel(names=NAMES)}, parts=wide
    )
    with pytest.raises(UserError, match=r"have 16 bits: pass --image_size \(e.g. 12\)"):
        load(tmp_path, 0)
    assert_holds(load(tmp_path, 12), parts)


# Records


def training_file(folder: pathlib.Path) -> pathlib.Path:
    (file,) = folder.glob("made_up/1.0.0/*train*")
    return file


def write_records(file: pathlib.Path, contents: list[bytes]) -> None:
    with tf.io.TFRecordWriter(str(file)) as writer:
        for record in contents:
            writer.write(record)


def record_of(image: bytes | None, label: int | None) -> bytes:
    features = tf.train.Features()
    if image is not None:
        features.feature["image"].bytes_list.value.append(image)
    if label is not None:
        features.feature["label"].int64_list.value.append(label)
    return tf.train.Example(features=features).SerializeToString()


def test_records_are_read_through_only_once(tmp_path, monkeypatch):
    prepare(tmp_path, None)
    first = load(tmp_path)
    monkeypatch.setattr(records, "_records", None)
    monkeypatch.setattr(records, "examine", None)
    again = load(tmp_path)
    np.testing.assert_array_equal(
        again.training_set([2, 0]).load_all(), first.training_set([2, 0]).load_all()
    )


def test_notes_lie_elsewhere_where_the_folder_is_read_only(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    prepare(tmp_path / "data", None)
    beside = records.caches.store
    monkeypatch.setattr(
        records.caches, "store", lambda path, a: "cache" in str(path) and beside(path, a)
    )
    load(tmp_path / "data")
    assert not list(tmp_path.glob("data/**/mnemonics_tf_index*"))
    monkeypatch.setattr(records, "_records", None)
    load(tmp_path / "data")


def test_notes_lie_beside_the_records_of_a_user_without_a_home(tmp_path, monkeypatch):
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)
    file = str(tmp_path / "train.tfrecord")
    write_records(pathlib.Path(file), [record_of(encode(smooth_image(), "PNG"), 1)])
    index_records([file], "train")
    monkeypatch.setattr(records, "_records", None)
    assert index_records([file], "train").labels.tolist() == [1]


def test_notes_that_are_damaged_are_made_again(tmp_path):
    parts = prepare(tmp_path, None)
    load(tmp_path)
    for file in tmp_path.glob("made_up/1.0.0/mnemonics_tf_index*"):
        file.write_bytes(file.read_bytes()[:-50])
    assert_holds(load(tmp_path), parts)


def test_a_file_that_was_replaced_by_one_of_equal_size(tmp_path):
    """Swapped labels: the notes of the first file would give wrong ones without a word."""
    file = tmp_path / "train.tfrecord"
    image = encode(smooth_image(), "PNG")
    for labels in ([0, 1, 1], [1, 0, 1]):
        write_records(file, [record_of(image, label) for label in labels])
        assert index_records([str(file)], "train").labels.tolist() == labels


def test_a_record_that_is_not_the_one_noted(tmp_path):
    prepare(tmp_path, None)
    source = load(tmp_path)
    file = training_file(tmp_path)
    key = source.training_set([0])._keys[1]
    contents = bytearray(file.read_bytes())
    contents[key[1] + key[2]] ^= 1  # of the checksum behind the data
    file.write_bytes(contents)
    with pytest.raises(UserError, match=rf"record at byte {key[1]} of .*train.*has changed since"):
        source.training_set([0]).load_all()


def test_records_that_are_cut_short(tmp_path):
    prepare(tmp_path, None)
    file = training_file(tmp_path)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="cut short"):
        load(tmp_path)


@pytest.mark.parametrize("length", [2**62, 2**40, 2**63 + 1])
def test_lengths_beyond_the_file(tmp_path, length):
    prepare(tmp_path, None)
    file = training_file(tmp_path)
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    with pytest.raises(UserError, match=f"a record of {length} bytes begins"):
        load(tmp_path)


def test_checksums_are_compared(tmp_path):
    prepare(tmp_path, None)
    file = training_file(tmp_path)
    contents = bytearray(file.read_bytes())
    contents[40] ^= 1
    file.write_bytes(contents)
    with pytest.raises(UserError, match="train.* is damaged: corrupted record"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"\xff" * 9, "record at byte 12, is no tf.train.Example"),
        (b"", "holds 0 images and 0 labels"),
        (record_of(b"x", None), "holds 1 images and 0 labels"),
        (record_of(None, 1), "holds 0 images and 1 labels"),
        (record_of(encode(smooth_image(), "PNG"), 3), "has the label 3, but only 3 classes"),
    ],
)
def test_records_of_another_kind(tmp_path, record, message):
    prepare(tmp_path, None)
    write_records(training_file(tmp_path), [record] * 10)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"\xff" * 9, "record at byte 12, is no tf.train.Example"),
        (record_of(encode(smooth_image(12, 12), "PNG"), 3), "has the label 3, but only 3 classes"),
        (record_of(encode(smooth_image(12, 13), "PNG"), 1), "can't be read .*shape"),
    ],
)
def test_records_of_another_kind_in_memory(tmp_path, record, message):
    prepare(tmp_path, 12)
    good = record_of(encode(smooth_image(12, 12), "PNG"), 1)
    write_records(training_file(tmp_path), [record, *[good] * 9])
    with pytest.raises(UserError, match=message):
        load(tmp_path, 0)


def test_a_file_that_is_missing(tmp_path):
    prepare(tmp_path, None)
    training_file(tmp_path).unlink()
    with pytest.raises(UserError, match="1 of the 1 files of the split train are missing"):
        load(tmp_path)


@pytest.mark.parametrize("size", [12, None], ids=["in memory", "by place"])
def test_broken_images_are_named_or_left_out(tmp_path, caplog, size):
    prepare(tmp_path, size)
    good = encode(smooth_image(size or 30, size or 20), "PNG")
    contents = [record_of(good, c) for c in (0, 1, 2) * 3] + [record_of(good[:-12], 1)]
    write_records(training_file(tmp_path), contents)
    with pytest.raises(UserError, match=r"1 of 10 records .*\n.*train.*: Invalid PNG"):
        load(tmp_path, 0 if size else 20)
    source = load(tmp_path, 0 if size else 20, skip_broken=True)
    assert "they are left out" in caplog.text
    assert source.training_counts().tolist() == [3, 3, 3]


# Sets that are not there, or of another kind


def test_a_set_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no data of made_up .*--download"):
        load(tmp_path, 0)


def test_names_and_places_that_do_not_fit(tmp_path):
    prepare(tmp_path, 12)
    place = tmp_path / "made_up"
    assert len(sources.create("tfds:made_up:1.0.0", str(tmp_path), False).class_names) == 3
    for name, root, message in (
        ("made_up:2.0.0", tmp_path, "is prepared: 1.0.0; not 2.0.0"),
        ("", tmp_path, "names no set"),
        ("made_up", place, "the folder of made_up itself, or one in it: pass the folder in which"),
        ("made_up", place / "1.0.0", "the folder of made_up itself, or one in it"),
    ):
        with pytest.raises(UserError, match=message):
            sources.create(f"tfds:{name}", str(root), False)


def test_files_with_fewer_records_than_were_prepared(tmp_path):
    prepare(tmp_path, None)
    whole = [c.numpy() for c in tf.data.TFRecordDataset(str(training_file(tmp_path)))]
    write_records(training_file(tmp_path), whole[:-1])
    with pytest.raises(UserError, match="00001 holds 9 records, and dataset_info.json says 10"):
        load(tmp_path)


@pytest.mark.parametrize("size", [12, None], ids=["in memory", "by place"])
def test_files_of_another_format(tmp_path, size):
    prepare(tmp_path, size)
    info = tmp_path / "made_up" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"tfrecord"', '"riegeli"'))
    with pytest.raises(UserError, match="stored as riegeli: prepare it as tfrecord"):
        load(tmp_path, 0 if size else 20)


def test_a_set_of_another_kind(tmp_path):
    import tensorflow_datasets as tfds

    prepare(tmp_path, 12, {"image": tfds.features.Image(), "label": tf.int64})
    with pytest.raises(UserError, match="expected an image .* class"):
        load(tmp_path, 0)


def test_a_description_that_is_damaged(tmp_path):
    prepare(tmp_path, 12)
    (tmp_path / "made_up" / "1.0.0" / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="can't be opened"):
        load(tmp_path, 0)
