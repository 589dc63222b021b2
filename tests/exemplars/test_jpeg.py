"""JPEG streams: one head a class, images that decode alone, and no image encoded twice."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mnemonics_tf.data.coded import CodedImageSet
from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.data.image_set import ArrayImageSet
from mnemonics_tf.data.pipeline import concatenate
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.codecs.jpeg import Jpeg
from mnemonics_tf.exemplars.memory import ExemplarMemory

LABELS = np.array([0, 0, 0, 1, 2, 2, 2])


def photographs(count: int, height=32, width=32, seed=0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (count, 4, 4, 3), np.uint8)
    images = [
        Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC) for one in small
    ]
    return np.stack([np.asarray(image) for image in images])


def whole_file(image: np.ndarray, quality: int) -> bytes:
    stream, grey = io.BytesIO(), image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if grey else image)
    picture.save(stream, "JPEG", quality=quality, subsampling=-1 if grey else "4:2:0")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("images", "quality"),
    [
        (photographs(5), 90),
        (photographs(5), 40),
        (photographs(2, 224, 224), 85),
        (photographs(3, 9, 21), 90),
        (load_digits().training_set([3]).load_all()[:4], 90),
    ],
    ids=["32 x 32", "low quality", "224 x 224", "not square", "grey"],
)
def test_streams_decode_to_the_pixels_of_whole_files(images, quality):
    codec = Jpeg(quality)
    code = codec.encode(images)
    files = [whole_file(image, quality) for image in images]
    read = [
        np.asarray(Image.open(io.BytesIO(file))).reshape(image.shape)
        for file, image in zip(files, images, strict=True)
    ]
    np.testing.assert_array_equal(codec.decode(code), read)
    head, streams = codec.split(code)
    assert [head + stream for stream in streams] == files
    # All bytes that are stored are counted: the head once, and two that say how long it is.
    saved = (len(images) - 1) * len(head)
    assert codec.num_bytes(code) == len(code) == 2 + sum(map(len, files)) - saved


def test_a_lower_quality_takes_fewer_bytes():
    sizes = [len(Jpeg(quality).encode(photographs(4))) for quality in (95, 75, 30)]
    assert sizes == sorted(set(sizes), reverse=True)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 4, 4, 4), np.uint8),
        *(np.zeros((1, n, 1, 3), np.uint8) for n in (65_501, 70_000)),
    ],
)
def test_what_jpeg_cannot_hold_is_refused(images):
    with pytest.raises(UserError, match="--codec=jpeg can't store"):
        Jpeg(90).encode(images)


def test_the_largest_side_is_stored():
    image = np.full((1, 65_500, 1, 3), 128, np.uint8)
    np.testing.assert_array_equal(Jpeg(90).decode(Jpeg(90).encode(image)), image)


def test_a_damaged_code_is_a_user_s_error():
    code = Jpeg(90).encode(photographs(3))
    with pytest.raises(UserError, match="damaged"):
        Jpeg(90).decode(code[:2] + b"xxxx" + code[6:])


# In a memory


@pytest.fixture
def memory():
    return ExemplarMemory(photographs(7), LABELS, codec="jpeg", quality=80)


@pytest.fixture
def encoded(monkeypatch):
    """The numbers of images that are encoded from here on."""
    numbers, encode = [], Jpeg.encode

    def counting(codec, images):
        numbers.append(len(images))
        return encode(codec, images)

    monkeypatch.setattr(Jpeg, "encode", counting)
    return numbers


def test_trimming_drops_streams_and_encodes_nothing(memory, encoded):
    trimmed, within = (
        memory.trimmed(2),
        memory.kept(memory.rows_within(int(memory.bytes_by_class()[0]) - 1)),
    )
    assert trimmed.labels.tolist() == [0, 0, 1, 2, 2]
    assert np.bincount(within.labels)[0] == 2
    np.testing.assert_array_equal(trimmed.images, memory.images[[0, 1, 3, 4, 5]])
    assert not encoded


def test_only_images_that_changed_are_encoded_anew(memory, encoded):
    new = photographs(2, seed=3)
    changed = memory.with_images(new, np.array([5, 1]))
    assert encoded == [1, 1]
    np.testing.assert_array_equal(changed.images[[0, 2, 3, 4, 6]], memory.images[[0, 2, 3, 4, 6]])
    alone = ExemplarMemory(new, np.zeros(2), codec="jpeg", quality=80)
    np.testing.assert_array_equal(changed.images[[5, 1]], alone.images)


def test_a_memory_comes_back_from_disk_with_its_quality(memory, tmp_path):
    memory.save(tmp_path / "exemplars.npz")
    loaded = ExemplarMemory.load(tmp_path / "exemplars.npz")
    np.testing.assert_array_equal(loaded.images, memory.images)
    assert loaded.bytes_used == memory.bytes_used
    more = (photographs(1, seed=4), np.array([3]))
    found, expected = (one.extended(*more) for one in (loaded, memory))
    assert found.arrays()["codes"].tobytes() == expected.arrays()["codes"].tobytes()


def test_pixels_exist_in_batches_alone(memory):
    images = memory.as_image_set()
    assert isinstance(images, CodedImageSet)
    assert not any(
        isinstance(value, np.ndarray) and value.ndim > 1 for value in vars(images).values()
    )
    np.testing.assert_array_equal(images.load_all(), memory.images)
    some = images.subset(np.array([6, 0, 3]))
    assert some.labels.tolist() == [2, 0, 1]
    np.testing.assert_array_equal(some.load_all(), memory.images[[6, 0, 3]])
    assert images.relabel(LABELS + 5).labels.tolist() == (LABELS + 5).tolist()
    raw = photographs(2, seed=5)
    mixed = concatenate([ArrayImageSet(raw, np.array([8, 9])), images])
    np.testing.assert_array_equal(mixed.load_all(), np.concatenate([raw, memory.images]))


def test_streams_that_do_not_belong_to_the_labels(memory):
    arrays = memory.arrays() | {"labels": np.array([0, 0, 1, 1, 2, 2, 2])}
    with pytest.raises(
        UserError,
        match="a file .* streams of the label .*, which",
    ):
        ExemplarMemory.from_arrays(arrays, "a file")


@pytest.mark.parametrize(
    "change",
    [
        lambda codes, sizes: (np.r_[codes[:10], np.zeros(50, np.uint8), codes[60:]], sizes),
        lambda codes, sizes: (np.where(np.arange(len(codes)) == 3, 0, codes), sizes),
        lambda codes, sizes: (codes, np.r_[-1, sizes[1] + sizes[0] + 1, sizes[2:]]),
        lambda codes, sizes: (codes, np.r_[0, sizes[1] + sizes[0], sizes[2:]]),
    ],
    ids=["no tables", "no beginning", "negative size", "empty code"],
)
def test_a_damaged_head_is_found_when_it_is_read(memory, change):
    """Not by the graph that trains on it, which knows no file to blame."""
    arrays = memory.arrays()
    codes, sizes = change(arrays["codes"], arrays["code_bytes"])
    with pytest.raises(UserError, match=r"the file\.npz .*expected exemplars and labels"):
        ExemplarMemory.from_arrays(arrays | {"codes": codes, "code_bytes": sizes}, "the file.npz")


def test_decoding_in_a_graph_is_decoding_outside(memory):
    images = memory.as_image_set()
    load = tf.function(images.load)
    np.testing.assert_array_equal(load(tf.constant(4, tf.int64)), memory.images[4])
