import logging
import os
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.augmentation import AUGMENTATIONS
from mnemonics_tf.data.decoding import MAX_PIXELS
from mnemonics_tf.data.folder import FolderOptions, load_folder
from mnemonics_tf.data.pipeline import Normalization, Pipeline
from mnemonics_tf.errors import UserError
from tests.data.image_files import encode, make_folder, smooth_image

OPTIONS = FolderOptions(image_size=16, skip_broken=False, test_share=0.25, split_seed=1)
SKIPPING = FolderOptions(image_size=16, skip_broken=True, test_share=0.25, split_seed=1)

SPLIT = {"train/cat": 4, "train/dog": 3, "val/cat": 2, "val/dog": 1}


def keys(images) -> list[str]:
    return [os.fsdecode(key) for key in images._keys]


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
    other = FolderOptions(16, False, 0.25, split_seed=2)
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


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"only": 3}, "holds 1 folders"),
        ({"a": 0, "b": 0}, "no images"),
        ({"a": 3, "b": 1}, "1 classes .* no test images .*b"),
        ({**SPLIT, "val/bird": 1}, "has classes that .* has not: bird"),
        ({**SPLIT, "train/bird": 1}, "1 classes .* no test images .*bird"),
    ],
)
def test_folders_that_are_not_fit(tmp_path, folders, message):
    make_folder(tmp_path, folders)
    with pytest.raises(UserError, match=message):
        load_folder(str(tmp_path), OPTIONS)


@pytest.mark.parametrize("data_dir", ["", "no/such/folder"])
def test_no_folder(data_dir):
    with pytest.raises(UserError, match="is no folder"):
        load_folder(data_dir, OPTIONS)


@pytest.mark.parametrize("image_size", [16, 96])
def test_number_of_threads_does_not_matter(tmp_path, image_size):
    """Small images are cropped in batches, large ones while they decode."""
    root = make_folder(tmp_path, {"a": 12, "b": 12}, (140, 120))
    options = FolderOptions(image_size, False, 0.25, 1)
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
