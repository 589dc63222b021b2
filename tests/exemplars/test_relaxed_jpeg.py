"""JPEG with a derivative: against the codec's own pixels, and finite differences."""

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.exemplars.codecs import CODECS, make_codec, relaxed_jpeg
from mnemonics_tf.exemplars.codecs.base import RelaxedCodec
from mnemonics_tf.exemplars.codecs.jpeg import Jpeg
from tests.exemplars.test_jpeg import photographs


@pytest.mark.parametrize("quality", [95, 50])
@pytest.mark.parametrize(
    "images",
    [
        photographs(8),
        photographs(3, 64, 48),
        photographs(6, 9, 21),
        load_digits().training_set([3]).load_all()[:8],
    ],
    ids=["32 x 32", "64 x 48", "9 x 21", "grey"],
)
def test_pixels_are_those_of_the_codec_but_for_a_level(images, quality):
    codec = Jpeg(quality)
    true = codec.decode(codec.encode(images)).astype(float)
    relaxed = codec.relaxed(tf.constant(images, tf.float32)).numpy()
    assert relaxed.shape == images.shape
    np.testing.assert_array_equal(relaxed, np.round(relaxed))
    lost = np.abs(true - images).mean()
    assert np.abs(relaxed - true).mean() < min(1.5, 0.6 * lost)


def test_what_is_out_of_range_is_clipped():
    for pixel, expected in ((300.0, 255.0), (-40.0, 0.0)):
        decoded = Jpeg(90).relaxed(tf.fill([1, 8, 8, 1], pixel))
        np.testing.assert_array_equal(decoded, np.full([1, 8, 8, 1], expected))


def test_black_and_white_may_move_whatever_rounding_made_of_them():
    def gradient(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            total = tf.reduce_sum(Jpeg(90).relaxed(images))
        return tape.gradient(total, images)

    inside = tf.constant(np.random.default_rng(0).uniform(60, 190, (1, 16, 16, 3)), tf.float32)
    mixed = tf.where(inside < 90, -1e-5, tf.where(inside > 160, 255 + 1e-5, inside))
    assert np.all(np.abs(gradient(mixed)) > 0)


@pytest.mark.parametrize("shape", [(2, 16, 16, 3), (2, 9, 13, 3), (2, 8, 8, 1)])
def test_the_derivative_is_that_of_all_but_rounding(shape, monkeypatch):
    generator = np.random.default_rng(0)
    images = tf.constant(generator.uniform(60, 190, shape))
    seen, direction = generator.normal(size=(2, *shape))

    def value(pixels):
        return tf.reduce_sum(seen * Jpeg(90).relaxed(pixels))

    with tf.GradientTape() as tape:
        tape.watch(images)
        rounded = value(images)
    gradient = tape.gradient(rounded, images)
    monkeypatch.setattr(relaxed_jpeg, "_rounded", lambda values: values)
    ahead, behind = (float(value(images + s * direction)) for s in (1e-3, -1e-3))
    assert np.vdot(gradient, direction) == pytest.approx((ahead - behind) / 2e-3, rel=1e-6)


def test_codecs_that_lose_nothing_have_none():
    relaxed = [name for name in CODECS if isinstance(make_codec(name, 90), RelaxedCodec)]
    assert relaxed == ["jpeg"]
