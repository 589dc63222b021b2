import hashlib
import io
import os
import pathlib
import tarfile

import numpy as np
import pytest

from mnemonics_tf.data import imagenet
from mnemonics_tf.data.imagenet import load_imagenet, subset_synsets, synsets
from mnemonics_tf.errors import UserError
from tests.data.image_files import encode, make_folder, smooth_image

TEST_DATA = os.environ.get("MNEMONICS_TEST_DATA", "")


def test_synsets_are_those_of_ilsvrc_2012():
    assert len(set(synsets())) == 1000
    assert list(synsets()) == sorted(synsets())
    assert synsets()[0] == "n01440764"
    assert synsets()[-1] == "n15075141"


def test_the_subset_is_the_published_one():
    """The first ids that `choice` draws, in the order drawn, and all of them sorted."""
    drawn = np.random.RandomState(1993).choice(np.arange(1000), 100, replace=False)
    subset = subset_synsets()
    assert sorted(synsets()[i] for i in drawn) == list(subset)
    assert len(set(subset)) == 100
    assert tuple(synsets()[i] for i in drawn[:5]) == (
        "n01729322",
        "n01514668",
        "n04550184",
        "n03109150",
        "n01990800",
    )
    assert subset[:5] == ("n01514668", "n01531178", "n01537544", "n01689811", "n01729322")
    assert subset[-5:] == ("n09468604", "n12267677", "n12620546", "n12768682", "n15075141")
    joined = ",".join(subset).encode()
    assert hashlib.sha256(joined).hexdigest()[:16] == "d32da9d901fdeb75"


@pytest.fixture
def few(monkeypatch):
    """ImageNet with four synsets, two of them in the subset."""
    monkeypatch.setattr(imagenet, "synsets", lambda: ("n01", "n02", "n03", "n04"))
    monkeypatch.setattr(imagenet, "subset_synsets", lambda: ("n02", "n04"))


def test_folders(tmp_path, few):
    folders = {f"{part}/n0{i}": i for part in ("train", "val") for i in range(1, 5)}
    make_folder(tmp_path, folders)
    whole = load_imagenet("imagenet", str(tmp_path), 32)
    assert whole.class_names == ("n01", "n02", "n03", "n04")
    assert whole.training_counts().tolist() == [1, 2, 3, 4]
    subset = load_imagenet("imagenet_subset", str(tmp_path), 32)
    assert subset.class_names == ("n02", "n04")
    assert subset.training_counts().tolist() == [2, 4]
    assert subset.test_set([1]).load_all().shape == (4, 32, 32, 3)
    assert load_imagenet("imagenet", str(tmp_path), 224).augmentation == "resized_crop_mirror"


def test_every_image_is_decoded_before_training(tmp_path, few, caplog):
    folders = {f"{part}/n0{i}": 2 for part in ("train", "val") for i in (2, 4)}
    make_folder(tmp_path, folders)
    file = tmp_path / "train" / "n04" / "001.JPEG"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(UserError, match="1 of 8 files .*\n.*train/n04/001.JPEG"):
        load_imagenet("imagenet_subset", str(tmp_path), 32)
    source = load_imagenet("imagenet_subset", str(tmp_path), 32, skip_broken=True)
    assert source.training_counts().tolist() == [2, 1]
    (tmp_path / "train" / "n04" / "000.JPEG").write_bytes(b"")
    with pytest.raises(UserError, match="all 2 images of n04 in train are broken"):
        load_imagenet("imagenet_subset", str(tmp_path), 32, skip_broken=True)


def test_images_of_imagenet_that_are_left_out_are_told_of(tmp_path, few, caplog):
    folders = {f"{part}/n0{i}": 1 for part in ("train", "val") for i in (2, 4)}
    make_folder(tmp_path, {**folders, "train/n02/more": 3, "val/n05": 1, "val/n01": 1, "test/x": 4})
    load_imagenet("imagenet_subset", str(tmp_path), 32)
    assert "3 image files in sub-folders of class folders" in caplog.text
    assert "4 image files in test/ (the parts are train, val)" in caplog.text
    assert "1 folder of no class of ImageNet (first: val/n05)" in caplog.text


def test_classes_that_are_missing_are_named(tmp_path, few):
    make_folder(tmp_path, {"train/n02": 2, "train/n04": 0, "val/n02": 1, "val/n04": 1})
    with pytest.raises(UserError, match=r"lacks images of 1 of 2 classes \(first: n04\)"):
        load_imagenet("imagenet_subset", str(tmp_path), 32)


def test_what_was_looked_for(tmp_path):
    with pytest.raises(UserError, match="ILSVRC2012_img_train.tar.*--data_dir"):
        load_imagenet("imagenet", str(tmp_path), 224)


@pytest.mark.parametrize("part", ["train", "val"])
def test_one_part_alone_is_told_of(tmp_path, few, part):
    """No --test_share helps here: these data sets have their own test images."""
    make_folder(tmp_path, {f"{part}/n02": 2, f"{part}/n04": 2})
    with pytest.raises(
        UserError, match=rf"\(there is {part}/ alone\).*{imagenet.ARCHIVES[1]}"
    ) as e:
        load_imagenet("imagenet_subset", str(tmp_path), 32)
    assert "--test_share" not in str(e.value)


# Data prepared by TFDS


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def write_archives(folder: pathlib.Path, training: dict[str, int], validation: int) -> None:
    """The official archives in small: a tar of one tar a synset, and a tar of images."""
    with tarfile.open(folder / imagenet.ARCHIVES[0], "w") as outer:
        for number, (synset, count) in enumerate(training.items()):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as inner:
                for i in range(count):
                    data = encode(smooth_image(seed=100 * number + i), "JPEG")
                    add(inner, f"{synset}_{i}.JPEG", data)
            add(outer, f"{synset}.tar", buffer.getvalue())
    with tarfile.open(folder / imagenet.ARCHIVES[1], "w") as outer:
        for i in range(validation):
            data = encode(smooth_image(seed=9000 + i), "JPEG")
            add(outer, f"ILSVRC2012_val_{i + 1:08d}.JPEG", data)


def test_official_archives_are_prepared_by_tfds(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    # The labels of the first three validation images, as published.
    validation = ("n01751748", "n09193705", "n02105855")
    monkeypatch.setattr(imagenet, "synsets", lambda: validation)
    write_archives(tmp_path, {s: 2 + i for i, s in enumerate(validation)}, validation=3)
    make_folder(tmp_path, {f"train/{validation[0]}": 1})  # unpacked in part: the archives count
    source = load_imagenet("imagenet", str(tmp_path), 32)
    assert source.training_counts().tolist() == [2, 3, 4]
    assert source.training_set([2, 0]).labels.tolist() == [2] * 4 + [0] * 2
    for c in range(3):
        expected = np.asarray(smooth_image(seed=9000 + c).resize((48, 32)), float)[:, 8:40]
        (found,) = source.test_set([c]).load_all()
        assert np.abs(found - expected).mean() < 6
    again = load_imagenet("imagenet", str(tmp_path), 32)  # now from what was prepared
    assert again.training_counts().tolist() == [2, 3, 4]
