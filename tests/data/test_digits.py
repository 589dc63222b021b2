import numpy as np
import pytest
from sklearn import datasets

from mnemonics_tf.data import digits

CLASSES = range(10)


@pytest.fixture(scope="module")
def source():
    return digits.load_digits()


def test_split_is_stratified(source):
    _, labels = datasets.load_digits(return_X_y=True)
    for c in CLASSES:
        total = np.sum(labels == c)
        assert len(source.test_set([c])) == round(total / 3)
        assert source.training_counts()[c] == total - round(total / 3)


def test_training_and_test_part_share_no_image_and_lose_none(source):
    values, labels = datasets.load_digits(return_X_y=True)
    everything = np.round(values * 255 / 16).astype(np.uint8)
    for c in CLASSES:
        training = source.training_set([c]).images.reshape(-1, 64)
        test = source.test_set([c]).images.reshape(-1, 64)
        expected = everything[labels == c]
        assert sorted(map(bytes, [*training, *test])) == sorted(map(bytes, expected))


def test_split_is_the_same_in_every_run(source):
    np.random.seed(5)
    again = digits.load_digits()
    np.testing.assert_array_equal(again.test_set(CLASSES).images, source.test_set(CLASSES).images)


def test_grey_levels_span_all_of_uint8(source):
    images = source.training_set(CLASSES).images
    assert source.image_shape == (8, 8, 1)
    assert (images.min(), images.max()) == (0, 255)
    assert len(np.unique(images)) == 17


def test_normalisation_constants_are_those_of_the_training_part(source):
    scaled = source.training_set(CLASSES).images / 255
    np.testing.assert_allclose(source.channel_mean, [scaled.mean()], atol=5e-5)
    np.testing.assert_allclose(source.channel_std, [scaled.std()], atol=5e-5)


def test_digits_are_not_mirrored(source):
    assert source.augmentation == "shift"
    assert source.class_names == tuple("0123456789")
