import dataclasses
import logging
import os
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data import checking, decoding
from mnemonics_tf.data.access import PhaseData
from mnemonics_tf.data.augmentation import AUGMENTATIONS
from mnemonics_tf.data.checking import check_files
from mnemonics_tf.data.decoding import MAX_PIXELS
from mnemonics_tf.data.folder import load_folder
from mnemonics_tf.data.image_set import MixedImageSet, naming_broken_files
from mnemonics_tf.data.pipeline import Normalization, Pipeline
from mnemonics_tf.data.protocol import ClassIncrementalProtocol
from mnemonics_tf.errors import UserError
from mnemonics_tf.monitoring.progress import Progress
from mnemonics_tf.settings import DataSettings
from tests.data.image_files import OPTIONS, SPLIT, encode, keys, make_folder, smooth_image

SKIPPING = DataSettings(image_size=16, skip_broken=True, test_share=0.25, split_seed=1)


def test_a_split_folder(tmp_path):
    source = load_folder(str(make_folder(tmp_path, SPLIT)), OPTIONS)
    assert source.class_names == ("cat", "dog")
    assert source.training_counts().tolist() == [4, 3]
    training, test = source.training_set([1, 0]), source.test_set([0, 1])
    assert training.labels.tolist() == [1] * 3 + [0] * 4
    assert keys(training)[0] == "train/dog/000.JPEG"
    assert keys(test) == ["val/cat/000.JPEG", "val/cat/001.JPEG", "val/dog/000.JPEG"]
    assert training.load_all().shape == (7, 16, 16, 3)
    source.release([1])
    with pytest.raises(LookupError, match="released"):
        source.training_set([1])
    assert len(source.training_set([])) == 0


def test_a_folder_without_a_split_is_split_within_each_class(tmp_path):
    make_folder(tmp_path, {"cat": 8, "dog": 12, "rare": 2})
    source = load_folder(str(tmp_path), OPTIONS)
    assert source.training_counts().tolist() == [6, 9, 1]
    training, test = source.training_set([0, 1, 2]), source.test_set([0, 1, 2])
    assert np.bincount(test.labels).tolist() == [2, 3, 1]
    assert not set(keys(training)) & set(keys(test))
    assert len(set(keys(training)) | set(keys(test))) == 22
    again = load_folder(str(tmp_path), OPTIONS)
    assert keys(again.test_set([0, 1, 2])) == keys(test)
    other = DataSettings(16, False, 0.25, split_seed=2)
    assert keys(load_folder(str(tmp_path), other).test_set([0, 1, 2])) != keys(test)


def test_any_name_and_suffix(tmp_path):
    make_folder(tmp_path, {"große Katze": 3, "b": 3})
    (tmp_path / "b" / "x y.PnG").write_bytes(encode(smooth_image(), "PNG"))
    (tmp_path / "b" / "y.webp").write_bytes(encode(smooth_image(), "WEBP"))
    (tmp_path / "b" / "notes.txt").write_text("no image")
    (tmp_path / "b" / ".hidden.jpg").write_text("no image")
    source = load_folder(str(tmp_path), OPTIONS)
    assert source.class_names == ("b", "große Katze")
    assert source.training_counts().sum() + len(source.test_set([0, 1])) == 8
    assert source.training_set([1, 0]).load_all().max() > 0


def break_files(root) -> None:
    good = (root / "a" / "000.JPEG").read_bytes()
    (root / "a" / "cut.jpg").write_bytes(good[: len(good) // 2])
    (root / "a" / "empty.png").write_bytes(b"")
    (root / "a" / "text.gif").write_text("hello")
    (root / "a" / "huge.png").write_bytes(huge_png(10_000, 10_000))


def huge_png(width: int, height: int) -> bytes:
    """A valid PNG of a hundred megapixels, all black, in a hundred kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width + 1) * height), 1)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_broken_files_are_named_before_training(tmp_path):
    break_files(make_folder(tmp_path, {"a": 4, "b": 4}))
    with pytest.raises(UserError, match="4 of 12 files") as caught:
        load_folder(str(tmp_path), OPTIONS)
    message = str(caught.value)
    for name in ("a/cut.jpg", "a/empty.png", "a/text.gif", "a/huge.png", "--skip_broken"):
        assert name in message
    assert f"10000 x 10000 pixels, at most {MAX_PIXELS / 1e6:.0f} megapixels" in message


def test_broken_files_are_left_out_on_request(tmp_path, caplog):
    break_files(make_folder(tmp_path, {"a": 4, "b": 4}))
    with caplog.at_level(logging.WARNING, logger="mnemonics_tf"):
        source = load_folder(str(tmp_path), SKIPPING)
    assert "a/cut.jpg" in caplog.text
    assert source.training_counts().tolist() == [3, 3]


def test_files_that_pillow_reads_and_training_does_not(tmp_path):
    """A PNG without its end: all pixels are there, but TensorFlow asks for what follows."""
    make_folder(tmp_path, {"a": 4, "b": 4})
    contents = encode(smooth_image(), "PNG")
    (tmp_path / "b" / "cut.png").write_bytes(contents[:-12])
    (tmp_path / "b" / "whole.png").write_bytes(contents)
    with pytest.raises(UserError, match="1 of 10 files.*\n.*b/cut.png: Invalid PNG"):
        load_folder(str(tmp_path), OPTIONS)
    source = load_folder(str(tmp_path), SKIPPING)
    assert source.training_counts().sum() + source.test_counts().sum() == 9


def test_only_the_formats_named_are_opened(tmp_path):
    """An EPS would start Ghostscript, whatever its suffix says."""
    make_folder(tmp_path, {"a": 4, "b": 4})
    (tmp_path / "b" / "x.jpg").write_bytes(encode(smooth_image(), "EPS"))
    (tmp_path / "b" / "y.png").write_bytes(encode(smooth_image(), "TIFF"))
    with pytest.raises(UserError, match="2 of 10 files") as caught:
        load_folder(str(tmp_path), OPTIONS)
    assert str(caught.value).count("no image that can be recognised") == 2


# Verdicts are kept


@pytest.fixture
def decoded(monkeypatch):
    """Notes how many files were decoded by the check."""
    count = []

    def examine(*arguments):
        count.append(1)
        return decoding.examine(*arguments)

    monkeypatch.setattr(checking, "examine", examine)
    return count


def test_files_are_checked_once_for_name_size_and_time(tmp_path, decoded):
    root = make_folder(tmp_path, {"a": 4, "b": 4})
    for changed in (8, 0, 1):
        if changed == 1:
            contents = encode(smooth_image(), "PNG")
            (root / "a" / "000.JPEG").write_bytes(contents)
        decoded.clear()
        source = load_folder(str(root), OPTIONS)
        assert len(decoded) == changed
        assert source.training_counts().tolist() == [3, 3]
    assert all(file.suffix == ".JPEG" for file in root.glob("*/*"))


def test_what_takes_long_with_many_files_is_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(Progress, "INTERVAL", 0.0)
    monkeypatch.setattr(checking, "_BATCH", 2)
    root = make_folder(tmp_path, {"a": 4, "b": 4})
    with caplog.at_level(logging.INFO, "mnemonics_tf"):
        assert load_folder(str(root), OPTIONS).digests
    told = " ".join(caplog.messages)
    assert "files looked up: batch 3/4" in told
    assert "training images, digest of class 1/2" in told


def test_broken_files_are_not_taken_for_good_later(tmp_path):
    root = make_folder(tmp_path, {"a": 4, "b": 4})
    break_files(root)
    for _ in range(2):
        with pytest.raises(UserError, match="4 of 12 files"):
            load_folder(str(root), OPTIONS)


@pytest.mark.parametrize("damage", ["cut", "nowhere"])
def test_notes_that_are_lost_cost_time_only(tmp_path, monkeypatch, decoded, damage):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = make_folder(tmp_path / "images", {"a": 4, "b": 4})
    if damage == "nowhere":
        (tmp_path / "cache").write_text("no folder")
    load_folder(str(root), OPTIONS)
    for file in (tmp_path / "cache").glob("*/*"):
        file.write_bytes(file.read_bytes()[:-40])
    load_folder(str(root), OPTIONS)
    assert len(decoded) == 16


def test_a_user_without_a_home_has_no_notes(tmp_path, monkeypatch, decoded):
    """As in a container that runs under a number which no passwd file knows."""
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)
    monkeypatch.chdir(tmp_path)
    root = make_folder(tmp_path / "images", {"a": 4, "b": 4})
    for _ in range(2):
        check_files(root, ["a/000.JPEG"], skip_broken=False)
    assert len(decoded) == 2
    assert os.listdir(tmp_path) == ["images"]


@pytest.mark.parametrize("image_size", [16, 96])
@pytest.mark.slow
def test_a_file_that_breaks_after_the_check_is_named(tmp_path, image_size):
    root = make_folder(tmp_path, {"a": 4, "b": 4})
    source = load_folder(str(root), dataclasses.replace(OPTIONS, image_size=image_size))
    data = PhaseData(source, ClassIncrementalProtocol([0, 1], 1, 1), keep_past=True)
    pipeline = Pipeline(
        Normalization(source.channel_mean, source.channel_std),
        AUGMENTATIONS[source.augmentation],
        0,
    )
    (phase, _) = data._protocol.phases
    images = data.training_set(phase)
    name = keys(images)[1]
    (root / name).write_bytes((root / name).read_bytes()[:-99])
    with pytest.raises(UserError, match=f"{name} could be decoded before"):
        images.load_all()
    with (
        pytest.raises(UserError, match=f"{name} could be decoded before"),
        data.naming_broken_files(),
    ):
        list(pipeline.training_batches(images, 2, "train", 0))
    mixed = MixedImageSet.of([images, images.subset(np.array([1, 0]))])
    with pytest.raises(UserError, match=name):
        mixed.load_all()


@pytest.mark.parametrize("kind", ["ResourceExhausted", "Internal", "Unimplemented"])
def test_other_trouble_passes_and_no_file_is_looked_at(kind):
    class Files:
        def check_files(self):
            pytest.fail("hours, for nothing")

    error = getattr(tf.errors, f"{kind}Error")
    with pytest.raises(error), naming_broken_files([Files()]):
        raise error(None, None, "full, or a kernel that could not be launched")


def test_a_folder_in_a_file_s_place_is_named(tmp_path, caplog):
    root = make_folder(tmp_path, {"a": 2, "b": 2})
    images = load_folder(str(root), OPTIONS).training_set([0, 1])
    place = root / keys(images)[0]
    place.unlink()
    place.mkdir()
    with pytest.raises(UserError, match=f"{place.name} could be decoded before"):
        images.load_all()
    assert f"{len(images)} images are decoded to name a broken one" in caplog.text


def test_trouble_that_may_be_a_file_s_passes_where_none_is_broken():
    with pytest.raises(tf.errors.InvalidArgumentError), naming_broken_files([]):
        raise tf.errors.InvalidArgumentError(None, None, "something else")


@pytest.mark.parametrize("image_size", [16, 96])
@pytest.mark.slow
def test_number_of_threads_does_not_matter(tmp_path, image_size):
    """Small images are cropped in batches, large ones while they decode."""
    root = make_folder(tmp_path, {"a": 12, "b": 12}, (140, 120))
    options = DataSettings(image_size, False, 0.25, 1)
    source = load_folder(str(root), options)
    normalization = Normalization(source.channel_mean, source.channel_std)
    pipeline = Pipeline(normalization, AUGMENTATIONS[source.augmentation], 0)
    results = []
    for threads in (1, 8):
        tf_options = tf.data.Options()
        tf_options.threading.private_threadpool_size = threads
        batches = pipeline.training_batches(source.training_set([0, 1]), 5, "train", 0)
        results.append(list(batches.with_options(tf_options).as_numpy_iterator()))
    assert [len(batch["label"]) for batch in results[0]] == [5, 5, 5, 3]
    for first, second in zip(*results, strict=True):
        np.testing.assert_array_equal(first["image"], second["image"])
        np.testing.assert_array_equal(first["label"], second["label"])
