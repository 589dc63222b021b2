import errno
import os

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.image_set import MappedImageSet
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.run import files
from mnemonics_tf.run.files import read_arrays, write_arrays


def random_images(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 4, 4, 3), np.uint8)


@pytest.fixture
def memory():
    return ExemplarMemory(random_images(7), np.array([0, 0, 0, 1, 2, 2, 2]))


def test_trimming_keeps_the_first_of_each_class(memory):
    trimmed = memory.trimmed(2)
    assert trimmed.labels.tolist() == [0, 0, 1, 2, 2]
    np.testing.assert_array_equal(trimmed.images, memory.images[[0, 1, 3, 4, 5]])
    assert memory.trimmed(1).labels.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(memory.trimmed(3).images, memory.images)
    assert len(memory) == 7


def test_new_classes_come_after_the_old(memory):
    new = random_images(2)
    extended = memory.extended(new, np.array([3, 4]))
    assert extended.labels.tolist() == [0, 0, 0, 1, 2, 2, 2, 3, 4]
    np.testing.assert_array_equal(extended.images[:7], memory.images)
    np.testing.assert_array_equal(extended.images[7:], new)


def test_an_empty_memory_takes_the_first_classes():
    empty = ExemplarMemory.empty((4, 4, 3))
    assert len(empty) == empty.bytes_used == 0
    assert empty.extended(random_images(2), np.array([0, 1])).labels.tolist() == [0, 1]


def test_pixels_change_and_labels_stay(memory):
    changed = memory.with_images(255 - memory.images)
    np.testing.assert_array_equal(changed.images, 255 - memory.images)
    np.testing.assert_array_equal(changed.labels, memory.labels)


def test_memory_takes_the_bytes_of_plain_images(memory):
    assert memory.bytes_used == 7 * 4 * 4 * 3


def test_memory_comes_back_from_disk_as_it_was(memory, tmp_path):
    memory.save(tmp_path / "exemplars.npz")
    loaded = ExemplarMemory.load(tmp_path / "exemplars.npz")
    assert loaded.images.dtype == np.uint8
    assert loaded.labels.dtype == np.int32
    np.testing.assert_array_equal(loaded.images, memory.images)
    np.testing.assert_array_equal(loaded.labels, memory.labels)


def test_exemplars_for_a_pipeline(memory):
    images = memory.as_image_set()
    assert images.labels.tolist() == memory.labels.tolist()
    np.testing.assert_array_equal(images.load(tf.range(7, dtype=tf.int64)), memory.images)


def test_a_damaged_file(memory, tmp_path):
    path = tmp_path / "exemplars.npz"
    memory.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(UserError, match="exemplars.npz is damaged"):
        ExemplarMemory.load(path)


@pytest.mark.parametrize("codec", ["pixels", "webp_lossless", "jpeg"])
def test_a_file_whose_classes_are_mixed(tmp_path, codec):
    """Rows of a class are found by their place: another order would give others."""
    path = tmp_path / "exemplars.npz"
    ExemplarMemory(random_images(4), np.array([0, 0, 1, 1]), codec=codec).save(path)
    write_arrays(path, {**read_arrays(path), "labels": np.array([1, 0, 1, 0], np.int32)})
    with pytest.raises(UserError, match="exemplars.npz holds labels that are not ascending"):
        ExemplarMemory.load(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="exemplars.npz is missing"):
        ExemplarMemory.load(tmp_path / "exemplars.npz")


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (random_images(2).astype(np.float32), [0, 1]),
        (random_images(2), [0, 1, 1]),
        (random_images(2), [1, 0]),
    ],
)
def test_images_and_labels_that_make_no_memory(images, labels):
    with pytest.raises(UserError, match="expected uint8 images with ascending labels"):
        ExemplarMemory(images, np.array(labels))


def test_many_images_stay_on_disk(tmp_path, monkeypatch):
    """As with small images, but in files, also when read again; the files have no names."""
    monkeypatch.setattr(files, "MAPPED_BYTES", 5 * 48)
    images = random_images(7)
    memory = ExemplarMemory.empty((4, 4, 3), tmp_path)
    memory = memory.extended(images[:4], np.array([0, 0, 0, 1]))
    assert not isinstance(memory.images, np.memmap)
    memory = memory.extended(images[4:], np.array([2, 2, 2]))
    assert isinstance(memory.images, np.memmap)
    assert list(tmp_path.iterdir()) == []
    memory.save(tmp_path / "memory.npz")
    again = ExemplarMemory.load(tmp_path / "memory.npz")
    assert isinstance(again.images, np.memmap)
    for found in (memory, again):
        np.testing.assert_array_equal(found.images, images)
        assert isinstance(found.as_image_set(), MappedImageSet)
        np.testing.assert_array_equal(found.as_image_set().load_all(), images)
    assert again.trimmed(3) is again
    trimmed = again.trimmed(2)
    assert isinstance(trimmed.images, np.memmap)
    np.testing.assert_array_equal(trimmed.images, images[[0, 1, 3, 4, 5]])
    changed = again.with_images(255 - images[[6, 0]], np.array([6, 0]))
    np.testing.assert_array_equal(changed.images[[0, 6]], 255 - images[[0, 6]])
    np.testing.assert_array_equal(changed.images[1:6], images[1:6])
    np.testing.assert_array_equal(again.images, images)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="disks are asked on Linux alone")
def test_a_full_disk_is_met_before_images_are_written(tmp_path, monkeypatch):
    """Through a mapping there is no error, but a signal that ends the process."""
    monkeypatch.setattr(files, "MAPPED_BYTES", 48)
    memory = ExemplarMemory(random_images(2), np.array([0, 0]), tmp_path)
    taken = memory.extended(random_images(400), np.ones(400, int)).images
    assert isinstance(taken, np.memmap)

    def refused(number):
        def refuse(descriptor, offset, size):
            assert (offset, size) == (0, 3 * 48)
            raise OSError(number, os.strerror(number))

        return refuse

    monkeypatch.setattr(os, "posix_fallocate", refused(errno.ENOSPC))
    with pytest.raises(UserError, match=f"disk is full.*{tmp_path}"):
        memory.extended(random_images(1), np.array([1]))
    monkeypatch.setattr(os, "posix_fallocate", refused(errno.EOPNOTSUPP))
    assert len(memory.extended(random_images(1), np.array([1]))) == 3


def test_a_folder_that_holds_no_files_of_many_images(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAPPED_BYTES", 48)
    place = tmp_path / "file"
    place.touch()
    memory = ExemplarMemory(random_images(2), np.array([0, 0]), place)
    with pytest.raises(UserError, match=r"file can't be written.*--run_dir"):
        memory.extended(random_images(1), np.array([1]))


def test_damage_of_many_images_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAPPED_BYTES", 48)
    path = tmp_path / "memory.npz"
    ExemplarMemory(random_images(7), np.zeros(7)).save(path)
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        ExemplarMemory.load(path)
