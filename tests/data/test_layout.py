"""Which files of a folder are images of a class, and what is said of the others."""

import errno
import logging
import os

import pytest

from mnemonics_tf.data import layout, sources
from mnemonics_tf.data.folder import load_folder
from mnemonics_tf.errors import UserError
from mnemonics_tf.settings import DataSettings, Settings
from tests.data.image_files import OPTIONS, SPLIT, encode, keys, make_folder, smooth_image


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
        "1 file of no regular kind (first: b/pipe.jpg)",
        "1 .tif file (first: b/scan.TIF)",
        "1 image file in no class's folder (first: loose.png)",
        "1 hidden image file (first: a/.hidden.png)",
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
