"""Random parts scaled to one size; padding, crops and mirrors are tested with the pipeline."""

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.augmentation import ResizedCropMirror

CROP = ResizedCropMirror()


def seed(number: int) -> tf.Tensor:
    return tf.constant([number, 5])


def test_parts_lie_within_the_image_and_have_the_sizes_asked_for():
    top, left, height, width, flip = (x.numpy() for x in CROP.draw(4000, 400, 500, seed(1)))
    assert (top.min(), left.min()) == (0, 0)
    assert ((top + height).max(), (left + width).max()) == (400, 500)
    share = height * width / (400 * 500)
    assert 0.079 < share.min() < 0.09
    assert 0.9 < share.max() < 1.001
    ratio = width / height
    assert 0.74 < ratio.min() < 0.76
    assert 1.32 < ratio.max() < 1.35
    assert 0.45 < flip.mean() < 0.55


def test_an_image_that_no_part_fits_gives_its_middle():
    top, left, height, width, _ = (int(x[0]) for x in CROP.draw(1, 10, 1000, seed(1)))
    assert (top, left, height, width) == (0, 495, 10, 10)


@pytest.mark.parametrize("number", range(4))
def test_a_batch_equals_crop_resize_and_mirror_one_by_one(number):
    images = np.random.default_rng(0).integers(0, 256, (6, 20, 30, 3), np.uint8)
    augmented = CROP(tf.constant(images), seed(number)).numpy()
    parts = zip(*(x.numpy() for x in CROP.draw(6, 20, 30, seed(number))), strict=True)
    for image, result, (top, left, height, width, flip) in zip(
        images, augmented, parts, strict=True
    ):
        part = image[top : top + height, left : left + width]
        expected = tf.image.resize(part, (20, 30), antialias=True).numpy()
        expected = expected[:, ::-1] if flip else expected
        assert np.abs(expected - result).max() < 0.51


def test_float_images_have_gradients_of_second_order():
    images = tf.random.stateless_uniform([2, 8, 8, 1], seed(0), dtype=tf.float64)
    with tf.GradientTape() as outer:
        outer.watch(images)
        with tf.GradientTape() as inner:
            inner.watch(images)
            loss = tf.reduce_sum(CROP(images, seed(3)) ** 3)
        gradient = inner.gradient(loss, images)
        norm = tf.reduce_sum(gradient**2)
    second = outer.gradient(norm, images)
    # The norm is of degree 4 in the images: Euler's identity.
    np.testing.assert_allclose(tf.reduce_sum(second * images), 4 * norm, rtol=1e-6)
