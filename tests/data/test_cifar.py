import os
import time

import numpy as np
import pytest

from mnemonics_tf.data import cifar
from mnemonics_tf.errors import UserError
from tests.data.cifar_files import (
    FORMS,
    PACKINGS,
    assert_holds,
    binary_files,
    contents_of,
    files_of,
    load,
    make_parts,
    prepare_with_tfds,
    put,
    python_files,
)

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
    with pytest.raises(
        UserError, match="could not prepare cifar100.*no route.*cifar-100-python.tar.gz"
    ):
        cifar.load_cifar100(str(tmp_path), True)
