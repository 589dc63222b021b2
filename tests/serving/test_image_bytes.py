"""What the signature for bytes of image files makes of them."""

import time
import zlib

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.decoding import decode_plain
from tests.serving.serving_support import ServedModel, learn


@pytest.fixture(scope="module")
def learned():
    return learn()


def encode_jpeg(image):
    return tf.io.encode_jpeg(image, quality=90).numpy()


def test_jpeg_of_other_sizes_and_channels(learned, tmp_path):
    served = ServedModel(learned.export(tmp_path / "net", 1))
    random = np.random.default_rng(5)
    colour = random.integers(0, 256, (48, 70, 3), np.uint8)
    grey = random.integers(0, 256, (20, 20, 1), np.uint8)
    transparent = random.integers(0, 256, (32, 32, 4), np.uint8)
    files = [
        encode_jpeg(learned.images[0]),
        encode_jpeg(colour),
        encode_jpeg(grey),
        tf.io.encode_png(transparent).numpy(),
    ]
    decoded = [decode_plain(files[0], 3), decode_plain(files[1], 3)]
    decoded += [tf.repeat(decode_plain(files[2], 1), 3, axis=2), transparent[..., :3]]
    resized = [tf.image.resize(image, (32, 32), antialias=True) for image in decoded]
    images = np.stack([np.clip(np.round(image), 0, 255).astype(np.uint8) for image in resized])
    np.testing.assert_array_equal(images[0], decoded[0])  # the right size already: left as it is
    answer = served("serving_bytes", {"image_bytes": files})
    expected = learned.predict(images).logits
    np.testing.assert_allclose(answer["logits"], expected, rtol=1e-5, atol=1e-5)
    served.close()


def png_that_claims(width: int, height: int) -> bytes:
    """Returns a PNG file of a few bytes whose header names a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + checksum

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    rows = zlib.compress(bytes(1000))
    parts = chunk(b"IHDR", size + b"\x08\x02\0\0\0"), chunk(b"IDAT", rows), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg_that_claims(width: int, height: int) -> bytes:
    """Returns a JPEG file of a few bytes whose frame header names a size."""
    contents = bytearray(encode_jpeg(np.zeros((8, 8, 3), np.uint8)))
    at = contents.index(b"\xff\xc0") + 5
    contents[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(contents)


HOSTILE_IMAGES = {
    "100 megapixels, PNG": (png_that_claims(10_000, 10_000), "67108864 pixels.*10000 10000"),
    "100 megapixels, JPEG": (jpeg_that_claims(10_000, 10_000), "67108864 pixels.*10000 10000"),
    "a product beyond 32 bits": (png_that_claims(2**31 - 1, 2**31 - 1), "67108864 pixels"),
    "no pixels": (png_that_claims(0, 5), "67108864 pixels"),
    "a GIF, that may hold many": (b"GIF89a" + bytes(100), "expected a JPEG or PNG file"),
    "text": (b"no image", "expected a JPEG or PNG file"),
    "nothing": (b"", "expected a JPEG or PNG file"),
    "a PNG cut short": (png_that_claims(8, 8)[:40], "PNG"),
    "only the start of a PNG": (png_that_claims(8, 8)[:16], ""),
    "a JPEG cut short": (jpeg_that_claims(8, 8)[:30], "JPEG"),
}


def test_hostile_images_are_refused_before_they_are_decoded(learned, tmp_path):
    served = ServedModel(learned.export(tmp_path / "net", 1))
    good = tf.io.encode_png(learned.images[0]).numpy()
    for name, (contents, message) in HOSTILE_IMAGES.items():
        started = time.monotonic()
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"(?s){message}"):
            served("serving_bytes", {"image_bytes": [good, contents]})
        assert time.monotonic() - started < 10, name
    assert len(served("serving_bytes", {"image_bytes": [good]})["class_id"]) == 1
    served.close()


def test_evaluation_decides_how_images_are_fitted(learned, tmp_path):
    def centre_crop(image):
        return tf.image.resize_with_crop_or_pad(image, 32, 32)

    served = ServedModel(learned.export(tmp_path / "net", 1, fit_image=centre_crop))
    image = np.random.default_rng(6).integers(0, 256, (40, 40, 3), np.uint8)
    answer = served("serving_bytes", {"image_bytes": [tf.io.encode_png(image).numpy()]})
    expected = learned.predict(image[None, 4:36, 4:36]).logits
    np.testing.assert_allclose(answer["logits"], expected, rtol=1e-5, atol=1e-5)
    served.close()
