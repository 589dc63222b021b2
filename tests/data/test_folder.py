import dataclasses
import errno
import logging
import os
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data import checking, decoding, layout, sources
from mnemonics_tf.data.access import PhaseData
from mnemonics_tf.data.augmentation import AUGMENTATIONS
from mnemonics_tf.data.checking import check_files
from mnemonics_tf.data.decoding import MAX_PIXELS
from mnemonics_tf.data.folder import load_folder
from mnemonics_tf.data.image_set import MixedImageSet, naming_broken_files
from mnemonics_tf.data.pipeline import Normalization, Pipeline
from mnemonics_tf.data.protocol import ClassIncrementalProtocol
from mnemonics_tf.errors import UserError
from mnemonics_tf.settings import DataSettings, Settings
from tests.data.image_files import encode, make_folder, smooth_image

OPTIONS = DataSettings(image_size=16, skip_broken=False, test_share=0.25, split_seed=1)
SKIPPING = DataSettings(image_size=16, skip_broken=True, test_share=0.25, split_seed=1)

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


def test_other_trouble_passes():
    with pytest.raises(tf.errors.ResourceExhaustedError), naming_broken_files([]):
        raise tf.errors.ResourceExhaustedError(None, None, "full")
    with pytest.raises(tf.errors.InvalidArgumentError), naming_broken_files([]):
        raise tf.errors.InvalidArgumentError(None, None, "something else")


# What is not read


def test_what_is_left_out_is_counted(tmp_path, caplog):
    root = make_folder(tmp_path, {"a": 4, "b": 4, "a/more": 3, "b/more/deeper": 2, ".c": 2})
    os.symlink("/no/such/file.png", root / "a" / "link.png")
    os.symlink("/no/such/folder", root / "c")
    os.mkfifo(root / "b" / "pipe.jpg")
    (root / "b" / "scan.TIF").write_bytes(b"")
    for name in ("loose.png", "a/.hidden.png", "a/._000.JPEG"):  # the last one Macs leave
        (root / name).write_bytes(encode(smooth_image(), "PNG"))
    with caplog.at_level(logging.INFO, logger="mnemonics_tf"):
        source = sources.create("folder", str(root), False, DataSettings(16))
    for words in (
        "5 image files in sub-folders of class folders (first: a/more/000.JPEG)",
        "2 broken links (first: c)",
        "1 files that are no regular ones (first: b/pipe.jpg)",
        "1 .tif files (first: b/scan.TIF)",
        "1 image files in no class's folder (first: loose.png)",
        "1 hidden image files (first: a/.hidden.png)",
        "2 image files in hidden folders (first: .c/000.JPEG)",
        f"folder: {source.training_counts().sum()} training and 2 test images of 2 classes, "
        f"16 x 16 pixels, from the class folders of {root}",
    ):
        assert words in caplog.text


LOOSE_ENDS = {
    "nothing": "/no/such/place",
    "a circle": "link.jpg",
    "below a file": "000.JPEG/x",
    "what is no name": "x" * 300,
}


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("target", LOOSE_ENDS)
def test_links_that_lead_nowhere_are_broken_ones(tmp_path, split, target):
    root = make_folder(tmp_path, SPLIT if split else {"a": 4, "b": 4})
    (root / "000.JPEG").write_bytes(b"")
    for folder in (root, root / "val", root / "val" / "dog") if split else (root, root / "a"):
        for name in ("link.jpg", ".link.jpg"):
            os.symlink(LOOSE_ENDS[target], folder / name)
    found = layout.find_layout(root)
    assert sum(map(len, found.training.values())) == (7 if split else 8)
    assert f"{3 if split else 2} broken links (first: " in str(found.left_out)


@pytest.mark.parametrize("name", [".", "train", "val", "val/dog"])
def test_folders_that_this_user_may_not_read(tmp_path, monkeypatch, name):
    """Root may read them all, hence the pretence."""
    root, scan = make_folder(tmp_path, SPLIT), os.scandir

    def scandir(folder):
        if folder == root / name:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(layout.os, "scandir", scandir)
    with pytest.raises(UserError, match=f"^{root / name} can't be read .*: mend its permissions"):
        layout.find_layout(root)


def test_links_to_where_this_user_may_not_look(tmp_path, monkeypatch):
    root = make_folder(tmp_path, {"a": 4, "b": 4})
    os.symlink("/no/such/place", root / "b" / "link.jpg")
    monkeypatch.setattr(layout, "_BROKEN", ())  # as with any other trouble: nothing is passed over
    with pytest.raises(UserError, match=f"^{root}/b/link.jpg can't be read"):
        layout.find_layout(root)


def test_a_second_test_part_is_told_of(tmp_path, caplog):
    make_folder(tmp_path, {**SPLIT, "test/cat": 3, "extra/dog": 2})
    with caplog.at_level(logging.INFO, logger="mnemonics_tf"):
        source = sources.create("folder", str(tmp_path), False, DataSettings(16))
    assert source.test_counts().tolist() == [2, 1]
    assert "3 image files in test/ (the parts are train, val)" in caplog.text
    assert "2 image files in extra/" in caplog.text
    assert "7 training and 3 test images of 2 classes, 16 x 16" in caplog.text
    assert f"from train/ and val/ of {tmp_path}" in caplog.text


def test_nothing_is_told_where_everything_is_read(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="mnemonics_tf"):
        load_folder(str(make_folder(tmp_path, SPLIT)), OPTIONS)
    assert not caplog.text


def test_tiny_imagenet_as_it_comes(tmp_path, caplog):
    make_folder(tmp_path, {f"train/n0{c}/images": 3 for c in "12"} | {"val/images": 5})
    make_folder(tmp_path / "test", {"images": 2})
    (tmp_path / "train" / "n01" / "n01_boxes.txt").write_text("0 0 1 1")
    rows = ("000.JPEG\tn02", "001.JPEG\tn01\t0\t0\t9\t9", "002.JPEG\tn02", "gone.JPEG\tn01")
    (tmp_path / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")
    with caplog.at_level(logging.INFO, logger="mnemonics_tf"):
        source = sources.create("folder", str(tmp_path), False, DataSettings(16))
    assert source.class_names == ("n01", "n02")
    assert keys(source.training_set([1]))[0] == "train/n02/images/000.JPEG"
    assert keys(source.test_set([0, 1])) == [f"val/images/00{i}.JPEG" for i in (1, 0, 2)]
    assert "whose classes val_annotations.txt names" in caplog.text
    assert "2 images that val_annotations.txt does not name" in caplog.text
    assert "1 images that val_annotations.txt names, but that are not there" in caplog.text
    (tmp_path / "val" / "val_annotations.txt").write_text("000.JPEG n02\n")
    with pytest.raises(UserError, match="val_annotations.txt, line 1: expected"):
        load_folder(str(tmp_path), OPTIONS)


@pytest.mark.parametrize("character", ["\f", "\v", "\x1c", "\x85", "\u2028"])
def test_tiny_imagenet_s_list_ends_its_lines_at_newlines_alone(tmp_path, character):
    make_folder(tmp_path, {"train/n01/images": 1, "val/images": 1})
    name = f"a{character}b.JPEG"
    (tmp_path / "val" / "images" / "000.JPEG").rename(tmp_path / "val" / "images" / name)
    (tmp_path / "val" / "val_annotations.txt").write_text(f"{name}\tn01\t0\n", "utf-8")
    assert layout.find_layout(tmp_path).test == {"n01": [f"val/images/{name}"]}


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(
    ("name", "message"),
    [(b"caf\xe9", r"'caf\\xe9' is not UTF-8: rename"), (b"a\nb", r"'a\\nb' has a line break")],
)
def test_names_that_no_export_could_hold(tmp_path, split, name, message):
    parts = ("train", "val") if split else (".",)
    make_folder(tmp_path, {f"{part}/ok": 3 for part in parts})
    for part in parts:
        os.mkdir(os.path.join(os.fsencode(tmp_path / part), name))
    with pytest.raises(UserError, match=message):
        load_folder(str(tmp_path), OPTIONS)


def test_file_names_need_not_be_text(tmp_path):
    root = make_folder(tmp_path, {"a": 4, "b": 4})
    place = os.path.join(os.fsencode(root / "b"), b"caf\xe9.jpg")
    with open(place, "wb") as stream:
        stream.write(encode(smooth_image(), "JPEG"))
    source = load_folder(str(root), OPTIONS)
    assert len(source.training_set([0, 1]).load_all()) + source.test_counts().sum() == 9
    with open(place, "wb") as stream:
        stream.write(b"broken")
    with pytest.raises(UserError, match=r"b/caf\\xe9.jpg: no image"):
        load_folder(str(root), OPTIONS)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"train/a": 3, "train/b": 3}, r"holds train/ .* none of val/, .*--data_dir=.*train"),
        ({"val/a": 3, "val/b": 3}, r"holds val/ .* none of train/"),
        ({"a": 0, "b": 0}, "no images"),
        ({"a": 3, "b": 1}, "no test images of 1 class .*b"),
        ({**SPLIT, "val/bird": 1}, "has classes that .* has not: bird"),
        ({**SPLIT, "train/bird": 1}, "no test images of 1 class .*bird"),
    ],
)
def test_folders_that_are_not_fit(tmp_path, folders, message):
    make_folder(tmp_path, folders)
    with pytest.raises(UserError, match=message):
        load_folder(str(tmp_path), OPTIONS)


def test_one_class_alone_is_a_source_but_no_run(tmp_path):
    make_folder(tmp_path, {"only": 3})
    assert load_folder(str(tmp_path), OPTIONS).class_names == ("only",)
    wanted = Settings().changed(dataset="folder", data_dir=str(tmp_path))
    with pytest.raises(UserError, match="holds the class only alone: expected two at least"):
        sources.open_source(wanted)
    with pytest.raises(UserError, match="holds no folders"):
        load_folder(str(tmp_path / "only"), OPTIONS)


@pytest.mark.parametrize("data_dir", ["", "no/such/folder"])
def test_no_folder(data_dir):
    with pytest.raises(UserError, match="is no folder"):
        load_folder(data_dir, OPTIONS)


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
