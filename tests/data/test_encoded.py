import warnings

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mnemonics_tf.data import decoding
from mnemonics_tf.data.augmentation import ResizedCropMirror
from mnemonics_tf.data.decoding import (
    ImageTooLargeError,
    decode_any,
    decode_plain,
    needs_pillow,
)
from mnemonics_tf.data.encoded import CENTRE_CROP, EncodedImageSet, View
from mnemonics_tf.data.storage import Storage
from tests.data.image_files import encode, smooth_image

INDEX = tf.constant(0, tf.int64)


class Inline(Storage):
    """Files that are their own keys."""

    def read(self, key):
        return key

    def fetch(self, key):
        return key

    def describe(self, key):
        return "a file"

    def digest(self, keys, sampled):
        raise NotImplementedError


def set_of(contents: bytes, view: View, by_pillow: bool = False) -> EncodedImageSet:
    keys = np.array([contents], object)
    return EncodedImageSet(Inline(), keys, np.array([3]), view, np.array([by_pillow]))


def as_source_would(contents: bytes) -> np.ndarray:
    """Decodes by the way that the check of a folder chooses."""
    if needs_pillow(contents):
        return decode_any(contents, 3)
    return decode_plain(tf.constant(contents), 3).numpy()


# One size from any


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (300, 300), (90, 1000)])
def test_evaluation_resizes_the_shorter_side_to_256_and_takes_the_middle(size):
    image = smooth_image(*size)
    fitted = View(224, CENTRE_CROP).fit(tf.constant(np.asarray(image))).numpy()
    scale = 256 / min(size)
    width, height = round(size[0] * scale), round(size[1] * scale)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    expected = np.asarray(resized.crop((left, top, left + 224, top + 224)), float)
    assert np.abs(fitted - expected).mean() < 1.5
    assert fitted.dtype == np.uint8


def test_images_of_the_right_size_keep_their_pixels():
    image = np.asarray(smooth_image(32, 32))
    np.testing.assert_array_equal(View(32, 1.0).fit(tf.constant(image)), image)


def test_loading_decodes_and_fits():
    contents = encode(smooth_image(), "JPEG")
    view = View(24, 1.0)
    images = set_of(contents, view)
    np.testing.assert_array_equal(images.load(INDEX), view.fit(decode_plain(contents, 3)))
    assert images.image_shape == (24, 24, 3)
    assert images.load_all().shape == (1, 24, 24, 3)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_training_takes_a_random_part_of_the_whole_file(form):
    contents, crop, view = encode(smooth_image(300, 200), form), ResizedCropMirror(), View(64, 1.0)
    whole = decode_plain(contents, 3)
    for number in range(4):
        seed = tf.constant([number, 1])
        *box, flip = (int(x[0]) for x in crop.draw(1, 200, 300, seed))
        expected = view.crop(whole, *box).numpy()
        expected = expected[:, ::-1] if flip else expected
        part = set_of(contents, view).load_cropped(INDEX, seed, crop).numpy()
        # A part of a JPEG decodes to slightly other colours at its edges.
        assert np.abs(part.astype(int) - expected).mean() < (0.5 if form == "JPEG" else 0.01)


# Every kind of file


def test_pillow_and_tensorflow_decode_a_jpeg_alike():
    contents = encode(smooth_image(), "JPEG")
    difference = decode_any(contents, 3).astype(int) - decode_plain(contents, 3).numpy()
    assert np.abs(difference).max() <= 2


@pytest.mark.parametrize(
    ("form", "mode", "tolerance"),
    [
        ("PNG", "RGB", 0),
        ("PNG", "RGBA", 0),
        ("BMP", "RGB", 0),
        ("WEBP", "RGB", 20),
        ("JPEG", "RGB", 20),
        ("JPEG", "CMYK", 20),
        ("GIF", "P", 0),
        ("PNG", "P", 0),
    ],
)
def test_colours_survive(form, mode, tolerance):
    image = smooth_image()
    decoded = as_source_would(encode(image.convert(mode), form)).astype(int)
    assert decoded.shape == (40, 60, 3)
    expected = np.asarray(image.convert("P").convert("RGB") if mode == "P" else image)
    assert np.abs(decoded - expected).mean() <= tolerance / 4
    assert np.abs(decoded - expected).max() <= 2 * tolerance


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_grey_images_get_three_equal_channels(form):
    grey = smooth_image().convert("L")
    decoded = as_source_would(encode(grey, form)).astype(int)
    assert np.abs(decoded - np.asarray(grey)[..., None]).max() <= 8


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.linspace(0, 2**16 - 1, 40 * 60).reshape(40, 60).astype(np.uint16)
    decoded = as_source_would(encode(Image.fromarray(values), "PNG"))
    assert np.abs(decoded[..., 0].astype(int) - (values >> 8)).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright_whatever_the_camera_noted(orientation):
    upright = smooth_image()
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(back[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = as_source_would(encode(stored, "JPEG", exif=exif, quality=95))
    assert decoded.shape == (40, 60, 3)
    assert np.abs(decoded.astype(int) - np.asarray(upright)).mean() < 4


def test_an_animation_shows_its_first_picture():
    first, second = smooth_image(seed=1), smooth_image(seed=2)
    contents = encode(first, "WEBP", save_all=True, append_images=[second], lossless=True)
    np.testing.assert_array_equal(as_source_would(contents), np.asarray(first))


def test_a_graph_calls_pillow_for_the_files_that_need_it():
    exif = Image.Exif()
    exif[0x0112] = 3
    contents = encode(smooth_image(32, 32), "JPEG", exif=exif)
    images = set_of(contents, View(32, 1.0), by_pillow=True)
    expected = decode_any(contents, 3)
    np.testing.assert_array_equal(tf.function(images.load)(INDEX), expected)
    plain = set_of(contents, View(32, 1.0)).load(INDEX).numpy()
    assert np.abs(plain.astype(int) - expected[::-1, ::-1]).max() <= 2


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch):
    contents = encode(smooth_image(), "PNG")
    assert Image.MAX_IMAGE_PIXELS is not None  # which is the program's that imports this
    for limit in (60 * 40 // 2 - 1, 60 * 40 - 1):  # beyond twice as many it is an error
        with monkeypatch.context() as patch, warnings.catch_warnings(action="error"):
            patch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
            with pytest.raises(ImageTooLargeError, match=r"2400 pixels.*At most 67 megapixels"):
                decode_any(contents, 3)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 60 * 40 - 1)
    with pytest.raises(ImageTooLargeError, match="60 x 40 pixels"):
        decode_any(contents, 3)
