import io

import numpy as np
import pytest
from PIL import Image

from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.codecs import CODECS, webp_lossless
from mnemonics_tf.exemplars.memory import ExemplarMemory


def smooth_images(count: int, shape=(32, 32, 3), seed=0) -> np.ndarray:
    """Photograph-like images: sums of slow waves with some noise."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] / shape[0]
    phases = generator.uniform(0, 6, (count, shape[2], 1, 1))
    waves = np.sin(3 * x + phases) * np.cos(2 * y - phases)
    noise = generator.normal(0, 2, (count, shape[2], *shape[:2]))
    return np.clip(128 + 80 * waves + noise, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("codec", [name for name, kind in CODECS.items() if kind.lossless])
@pytest.mark.parametrize(
    "images",
    [
        smooth_images(1),
        smooth_images(7),
        smooth_images(20, (8, 5, 3)),
        smooth_images(3, (224, 224, 3)),
        load_digits().training_set([3]).load_all()[:11],
    ],
    ids=["one", "seven", "not square", "large", "grey"],
)
@pytest.mark.slow
def test_pixels_come_back_bit_for_bit(codec, images):
    coder = CODECS[codec]()
    decoded = coder.decode(coder.encode(images))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, images)


@pytest.mark.slow
def test_a_mosaic_takes_fewer_bytes_than_a_file_for_each_image():
    images, coder = smooth_images(20), CODECS["webp_lossless"]()
    together = coder.num_bytes(coder.encode(images))
    alone = 0
    for image in images:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "WEBP", lossless=True, quality=80, method=4)
        alone += stream.tell()
    assert together < alone < images.nbytes
    assert CODECS["pixels"]().num_bytes(images) == images.nbytes


@pytest.mark.parametrize(
    "images", [smooth_images(2, (4, 4, 4)), np.zeros((300, 1000, 1000, 1), np.uint8)]
)
def test_what_webp_cannot_hold_is_refused(images):
    with pytest.raises(UserError, match="--codec=webp_lossless can't store"):
        CODECS["webp_lossless"]().encode(images)


@pytest.mark.parametrize("change", [lambda code: code[:-20], lambda code: code[:7] + b"x" * 40])
def test_a_damaged_mosaic_is_a_user_s_error(change):
    coder = CODECS["webp_lossless"]()
    with pytest.raises(UserError, match="damaged"):
        coder.decode(change(coder.encode(smooth_images(4))))


def test_a_mosaic_may_have_more_pixels_than_pillow_takes_for_a_picture(monkeypatch):
    coder, images = CODECS["webp_lossless"](), smooth_images(4)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    np.testing.assert_array_equal(coder.decode(coder.encode(images)), images)
    assert Image.MAX_IMAGE_PIXELS == 100


# A memory behaves alike, whatever it stores


LABELS = np.array([0, 0, 0, 1, 2, 2, 2])


@pytest.mark.parametrize("codec", ["webp_lossless", "jpeg"])
def test_classes_are_taken_from_another_memory_as_they_are_stored(codec):
    ours, theirs = (
        ExemplarMemory(smooth_images(7, seed=seed), LABELS, codec=codec) for seed in (1, 2)
    )
    mixed = ours.with_classes_of(theirs, [0, 2])
    for label, source in ((0, theirs), (1, ours), (2, theirs)):
        rows = np.flatnonzero(label == LABELS)
        np.testing.assert_array_equal(mixed.images_at(rows), source.images_at(rows))
    expected = np.where([True, False, True], theirs.bytes_by_class(), ours.bytes_by_class())
    assert mixed.bytes_by_class().tolist() == expected.tolist()
    assert mixed.labels.tolist() == LABELS.tolist()


def memories(codec) -> list[ExemplarMemory]:
    return [ExemplarMemory(smooth_images(7), LABELS, codec=name) for name in ("pixels", codec)]


@pytest.mark.parametrize(
    "change",
    [
        lambda memory: memory,
        lambda memory: memory.trimmed(2),
        lambda memory: memory.trimmed(1).extended(smooth_images(3, seed=1), np.array([3, 3, 5])),
        lambda memory: memory.with_images(smooth_images(7, seed=2)),
        lambda memory: memory.with_images(smooth_images(3, seed=2), np.array([6, 0, 5])),
        lambda memory: ExemplarMemory.empty((32, 32, 3), codec=memory.codec).extended(
            memory.images, memory.labels
        ),
    ],
    ids=["as made", "trimmed", "extended", "all changed", "some changed", "from nothing"],
)
@pytest.mark.slow
def test_codes_hold_what_pixels_hold(change, tmp_path):
    plain, coded = map(change, memories("webp_lossless"))
    np.testing.assert_array_equal(coded.labels, plain.labels)
    np.testing.assert_array_equal(coded.images, plain.images)
    assert 0 < coded.bytes_used < plain.bytes_used
    coded.save(tmp_path / "exemplars.npz")
    loaded = ExemplarMemory.load(tmp_path / "exemplars.npz")
    np.testing.assert_array_equal(loaded.images, plain.images)
    assert (loaded.codec, loaded.bytes_used) == (coded.codec, coded.bytes_used)
    # Codes, their sizes and the labels; what an .npz adds does not grow with the images.
    assert (tmp_path / "exemplars.npz").stat().st_size < coded.bytes_used + 2500


@pytest.mark.parametrize(
    "change",
    [{"labels": LABELS[:3]}, {"images": np.zeros((7, 8, 8, 3))}, {"images": np.zeros(7, np.uint8)}],
)
def test_pixels_that_are_none_or_not_the_labels_are_refused_by_the_name_of_their_file(change):
    arrays = memories("jpeg")[0].arrays()
    with pytest.raises(UserError, match="^a file holds .* expected exemplars and labels"):
        ExemplarMemory.from_arrays(arrays | change, "a file")


def test_codes_that_do_not_belong_to_the_labels_are_refused(tmp_path):
    _, coded = memories("webp_lossless")
    arrays = coded.arrays()
    with pytest.raises(UserError, match="expected exemplars and labels"):
        ExemplarMemory.from_arrays(arrays | {"labels": LABELS[:3]}, "a file")
    with pytest.raises(UserError, match="codec 'my.module:Codec'.*--codec"):
        ExemplarMemory.from_arrays(arrays | {"codec": np.array("my.module:Codec")}, "a file")


@pytest.fixture
def halved(tmp_path, monkeypatch) -> str:
    """The name of a codec of one's own."""
    (tmp_path / "halved.py").write_text(
        "import numpy as np\n"
        "class Halved:\n"
        "    stores_pixels = False\n"
        "    def encode(self, images):\n"
        "        return bytes([images.shape[1]]) + (images // 2).tobytes()\n"
        "    def decode(self, code):\n"
        "        return 2 * np.frombuffer(code[1:], np.uint8).reshape(-1, code[0], code[0], 3)\n"
        "    def num_bytes(self, code):\n"
        "        return len(code)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "halved:Halved"


def test_a_codec_of_one_s_own_is_a_file_and_a_name(halved, tmp_path):
    memory = ExemplarMemory(smooth_images(7), LABELS, codec=halved)
    np.testing.assert_array_equal(memory.images, smooth_images(7) // 2 * 2)
    memory.save(tmp_path / "exemplars.npz")
    again = ExemplarMemory.load(tmp_path / "exemplars.npz", halved)
    np.testing.assert_array_equal(again.images, memory.images)


OTHERS = [
    {"image_shape": np.array([5, 6, 3])},
    {"labels": np.array([0, 1, 2])},
    {"labels": np.array([0, 0, 1, 1, 2, 2, 2])},  # as many in all
]


@pytest.mark.parametrize("change", OTHERS)
def test_a_file_says_other_images_than_its_codes(change):
    _, coded = memories("webp_lossless")
    with pytest.raises(UserError, match="a file .*expected exemplars and labels .*of the label 0"):
        ExemplarMemory.from_arrays(coded.arrays() | change, "a file")


@pytest.mark.parametrize("change", OTHERS)
@pytest.mark.parametrize(
    "read",
    [
        lambda memory: memory.images,
        lambda memory: memory.as_image_set(),
        lambda memory: memory.images_at(np.array([0])),
    ],
    ids=["images", "as_image_set", "images_at"],
)
def test_codes_that_do_not_tell_what_they_hold_are_found_out_when_decoded(halved, change, read):
    _, coded = memories(halved)
    memory = ExemplarMemory.from_arrays(coded.arrays() | change, "a file", codec=halved)
    with pytest.raises(UserError, match="stored exemplars are damaged: those of the label"):
        read(memory)


@pytest.mark.parametrize("shape", [(4, 4, 3), (3, 7, 1), (9, 2, 3), (1, 30, 3)])
def test_a_picture_says_how_many_images_it_holds(shape, monkeypatch):
    monkeypatch.setattr(webp_lossless, "_LARGEST_SIDE", 30)
    coder = CODECS["webp_lossless"]()
    most = coder.most_images(shape)
    images = np.zeros((most + 1, *shape), np.uint8)
    for count in (1, most // 2, most):
        assert coder.decode(coder.encode(images[:count])).shape == (count, *shape)
    with pytest.raises(UserError, match=f"can't store {most + 1} images"):
        coder.encode(images)
    monkeypatch.setattr(webp_lossless, "_LARGEST_SIDE", 16_383)
    assert coder.most_images((512, 512, 3)) == 961
    assert coder.most_images((8, 8, 3)) == 65_535  # two bytes of a count


@pytest.mark.parametrize("codec", ["pixels", "webp_lossless", "jpeg"])
def test_some_exemplars_for_a_pipeline_are_those_of_all(codec, monkeypatch):
    coded = memories(codec)[1]
    decoded, coder = [], CODECS[codec]
    decode = coder.decode

    def watched(self, code):
        images = decode(self, code)
        decoded.append(len(images))
        return images

    everything = coded.as_image_set()
    monkeypatch.setattr(coder, "decode", watched)
    for rows in (np.flatnonzero(coded.labels == 1), np.array([3, 0]), np.array([], int)):
        some = coded.as_image_set(rows)
        assert type(some) is type(everything)
        assert some.labels.tolist() == coded.labels[rows].tolist()
        np.testing.assert_array_equal(some.load_all(), everything.load_all()[rows])
        classes = len(np.unique(coded.labels[rows]))
        assert len(decoded) == (classes if codec == "webp_lossless" else 0)
        decoded.clear()


def test_a_mosaic_of_fewer_images_than_its_count():
    coder = CODECS["webp_lossless"]()
    code = coder.encode(smooth_images(4))
    with pytest.raises(UserError, match="damaged"):
        coder.decode((5).to_bytes(2, "big") + code[2:])
