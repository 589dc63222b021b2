import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.augmentation import ResizedCropMirror
from mnemonics_tf.data.image_set import ArrayImageSet, MappedImageSet, MixedImageSet
from mnemonics_tf.errors import UserError


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8)


def test_images_are_addressed_by_index(images):
    image_set = ArrayImageSet(images, np.array([4, 4, 2, 0, 2, 9]))
    loaded = image_set.load(tf.constant([5, 0, 5], tf.int64))
    assert loaded.dtype == tf.uint8
    np.testing.assert_array_equal(loaded, images[[5, 0, 5]])
    assert len(image_set) == 6
    assert image_set.image_shape == (4, 5, 3)
    assert image_set.labels.dtype == np.int32
    assert image_set.indices_of(2).tolist() == [2, 4]
    assert image_set.indices_of(7).tolist() == []


def test_loading_inside_a_graph_is_the_same(images):
    image_set = ArrayImageSet(images, np.zeros(6))
    in_graph = tf.function(image_set.load)
    for _ in range(2):
        np.testing.assert_array_equal(in_graph(tf.constant([3, 1], tf.int64)), images[[3, 1]])
    np.testing.assert_array_equal(image_set.load(tf.constant([2], tf.int64)), images[[2]])


def test_subset_keeps_the_order_asked_for(images):
    subset = ArrayImageSet(images, np.arange(6)).subset(np.array([4, 0, 3]))
    assert subset.labels.tolist() == [4, 0, 3]
    np.testing.assert_array_equal(subset.load(tf.range(3, dtype=tf.int64)), images[[4, 0, 3]])


def test_relabelling_leaves_images_and_the_first_set_alone(images):
    first = ArrayImageSet(images, np.arange(6))
    second = first.relabel(np.arange(6)[::-1])
    assert first.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert second.labels.tolist() == [5, 4, 3, 2, 1, 0]
    np.testing.assert_array_equal(second.load(tf.range(6, dtype=tf.int64)), images)


@pytest.mark.parametrize(
    ("dtype", "shape", "num_labels"),
    [(np.float64, (2, 4, 4, 3), 2), (np.uint8, (2, 4, 4), 2), (np.uint8, (2, 4, 4, 3), 3)],
)
def test_images_and_labels_that_do_not_belong_together(dtype, shape, num_labels):
    with pytest.raises(UserError, match="expected uint8"):
        ArrayImageSet(np.zeros(shape, dtype), np.zeros(num_labels))


@pytest.fixture
def mapped(images, tmp_path):
    np.save(tmp_path / "images.npy", images)
    return np.load(tmp_path / "images.npy", mmap_mode="r")


def test_mapped_images_are_read_and_not_copied(images, mapped):
    first = MappedImageSet(mapped, np.arange(6))
    assert np.shares_memory(first._images, mapped)
    subset = first.subset(np.array([4, 0, 3])).subset(np.array([2, 0])).relabel(np.array([7, 8]))
    assert subset.labels.tolist() == [7, 8]
    np.testing.assert_array_equal(subset.load_all(), images[[3, 4]])
    assert np.shares_memory(subset._images, mapped)
    np.testing.assert_array_equal(first.load_all(), images)


@pytest.fixture
def mixed(images, mapped):
    parts = [ArrayImageSet(images[:2], np.array([5, 6])), MappedImageSet(mapped, np.arange(6))]
    return MixedImageSet.of(parts)


def test_mixed_sets_keep_order_and_labels(images, mixed):
    assert mixed.labels.tolist() == [5, 6, 0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(mixed.load_all(), np.concatenate([images[:2], images]))
    subset = mixed.subset(np.array([7, 1, 2])).relabel(np.array([1, 1, 2]))
    assert subset.indices_of(1).tolist() == [0, 1]
    np.testing.assert_array_equal(subset.load_all(), images[[5, 1, 0]])


def test_mixed_sets_crop_each_image_as_its_own_set_does(images, mixed):
    crop, seed = ResizedCropMirror(), tf.constant([1, 2])
    found = tf.function(lambda i: mixed.load_cropped(i, seed, crop))(tf.constant(4, tf.int64))
    np.testing.assert_array_equal(found, crop(tf.constant(images[2:3]), seed)[0])


def test_mixed_sets_need_one_shape(images):
    parts = [ArrayImageSet(i, np.zeros(6)) for i in (images, images[:, :3])]
    with pytest.raises(UserError, match="different shapes"):
        MixedImageSet.of(parts)
