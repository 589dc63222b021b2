import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.augmentation import AUGMENTATIONS, Augmentation, mirror
from mnemonics_tf.data.image_set import ArrayImageSet, ImageSet
from mnemonics_tf.data.pipeline import Normalization, Pipeline, concatenate

NORMALIZATION = Normalization((0.5, 0.4, 0.3), (0.25, 0.2, 0.1))
SEED = tf.constant([3, 4])


def random_images(count: int, size: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def numbered_set(count: int) -> ArrayImageSet:
    """Images that carry their own index in every pixel, and as label."""
    images = np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 6, 6, 3)
    )
    return ArrayImageSet(np.ascontiguousarray(images), np.arange(count))


def pipeline(augmentation: str = "none", seed: int = 0) -> Pipeline:
    return Pipeline(NORMALIZATION, AUGMENTATIONS[augmentation], seed)


def gather(batches) -> dict[str, np.ndarray]:
    batches = [{name: value.numpy() for name, value in batch.items()} for batch in batches]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def crops_of(image: np.ndarray, padding: int, mirrored: bool) -> list[np.ndarray]:
    """All that a crop after padding with black, and perhaps a mirror, can make of an image."""
    size = len(image)
    padded = np.zeros((size + 2 * padding, size + 2 * padding, 3), image.dtype)
    padded[padding : padding + size, padding : padding + size] = image
    starts = range(2 * padding + 1)
    crops = [padded[y : y + size, x : x + size] for y in starts for x in starts]
    return crops + [crop[:, ::-1] for crop in crops] if mirrored else crops


class FileImageSet(ImageSet):
    """Images that are loaded one at a time."""

    batched = False

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self.images, self.labels = images, labels
        self.image_shape = images.shape[1:]

    def load(self, index):
        return tf.gather(tf.constant(self.images), index)

    def subset(self, index):
        return FileImageSet(self.images[index], self.labels[index])

    def relabel(self, labels):
        return FileImageSet(self.images, labels)


# Normalisation


def test_normalization_and_back():
    images = random_images(4)
    normalized = NORMALIZATION.normalize(tf.constant(images))
    expected = (images / 255 - [0.5, 0.4, 0.3]) / [0.25, 0.2, 0.1]
    np.testing.assert_allclose(normalized, expected, atol=1e-5)
    np.testing.assert_array_equal(NORMALIZATION.to_uint8(normalized), images)


def test_pixels_are_clipped_before_they_are_cast():
    far = NORMALIZATION.normalize(tf.constant([[-300.0, 255.6, 700.0], [0.4, 0.6, 254.5]]))
    assert NORMALIZATION.to_uint8(far).numpy().tolist() == [[0, 255, 255], [0, 1, 254]]


def test_many_images_change_a_few_at_a_time_on_the_host_and_by_no_bit(monkeypatch):
    images, seen = random_images(10), []
    normalized, pixels = NORMALIZATION.normalize(images), random_images(10) / np.float32(50) - 2
    rounded = NORMALIZATION.to_uint8(tf.constant(pixels))

    def watched(name):
        function = getattr(Normalization, name)

        def call(self, images, *arguments):
            seen.append((len(images), images.device))
            return function(self, images, *arguments)

        monkeypatch.setattr(Normalization, name, call)

    for name in ("normalize", "to_uint8"):
        watched(name)
    monkeypatch.setattr("mnemonics_tf.data.pipeline._AT_ONCE", 4)
    np.testing.assert_array_equal(NORMALIZATION.normalize_on_host(images), normalized)
    np.testing.assert_array_equal(NORMALIZATION.to_uint8_on_host(pixels), rounded)
    assert [count for count, _ in seen] == [4, 4, 2] * 2
    rows = np.array([7, 0, 1, 9, 3])
    np.testing.assert_array_equal(
        NORMALIZATION.to_uint8_on_host(pixels, rows), rounded.numpy()[rows]
    )
    assert all("CPU:0" in device for _, device in seen)
    assert NORMALIZATION.normalize_on_host(images[:0]).shape == (0, 6, 6, 3)


def test_black_and_white():
    zeros, full = tf.zeros([1, 3]), tf.fill([1, 3], 255.0)
    np.testing.assert_allclose(NORMALIZATION.black, NORMALIZATION.normalize(zeros)[0], rtol=1e-6)
    np.testing.assert_allclose(NORMALIZATION.white, NORMALIZATION.normalize(full)[0], rtol=1e-6)


# Augmentation


@pytest.mark.parametrize(("name", "padding", "mirrored"), [("crop_mirror", 4, 1), ("shift", 1, 0)])
def test_augmented_images_are_crops_of_images_padded_with_black(name, padding, mirrored):
    images = random_images(30)
    augmented = AUGMENTATIONS[name](tf.constant(images), SEED).numpy()
    chosen = []
    for image, result in zip(images, augmented, strict=True):
        matches = [np.array_equal(result, crop) for crop in crops_of(image, padding, mirrored)]
        assert any(matches)
        chosen.append(matches.index(True))
    assert len(set(chosen)) > 5  # each image draws for itself
    if mirrored:
        unmirrored = (2 * padding + 1) ** 2
        assert 5 < sum(choice >= unmirrored for choice in chosen) < 25


def test_every_offset_can_come():
    image = np.zeros((3, 3, 3), np.uint8)
    image[1, 1] = 255
    augmented = Augmentation(padding=1, mirror=False)(tf.constant(np.stack([image] * 200)), SEED)
    places = {tuple(np.argwhere(result[..., 0])[0]) for result in augmented.numpy()}
    assert places == {(y, x) for y in range(3) for x in range(3)}


def test_mirror_turns_columns_and_leaves_rows_and_channels():
    images = random_images(2)
    np.testing.assert_array_equal(mirror(tf.constant(images)), images[:, :, ::-1])


def test_black_is_a_color_of_the_normalised_range():
    images = random_images(20)
    augmentation = AUGMENTATIONS["crop_mirror"]
    before = NORMALIZATION.normalize(augmentation(tf.constant(images), SEED))
    normalized = NORMALIZATION.normalize(tf.constant(images))
    after = augmentation(normalized, SEED, black=NORMALIZATION.black)
    np.testing.assert_allclose(before, after, atol=1e-5)


def test_gradient_counts_how_often_a_pixel_was_used():
    images = tf.constant(random_images(8), tf.float32)
    augmentation = AUGMENTATIONS["crop_mirror"]
    with tf.GradientTape() as tape:
        tape.watch(images)
        total = tf.reduce_sum(augmentation(images, SEED))
    # A pixel of weight 1 in a black image shows in the crop or not.
    positions = tf.reshape(tf.eye(36), [36, 6, 6, 1])
    counts = [
        tf.reduce_sum(augmentation(tf.repeat(position[None], 8, axis=0), SEED), axis=[1, 2, 3])
        for position in positions
    ]
    expected = np.stack(counts, axis=1).reshape(8, 6, 6, 1)
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(tape.gradient(total, images), np.repeat(expected, 3, axis=3))


# Batches


def test_every_image_comes_once_an_epoch():
    batches = gather(pipeline("shift").training_batches(numbered_set(23), 8, "train", 0))
    assert batches["label"].tolist() != list(range(23))
    assert sorted(batches["label"].tolist()) == list(range(23))
    pixels = NORMALIZATION.to_uint8(tf.constant(batches["image"])).numpy()[:, 3, 3, 0]
    assert pixels.tolist() == batches["label"].tolist()  # and each with its own label


def test_weights_make_a_mean_of_every_batch():
    batches = list(pipeline().training_batches(numbered_set(20), 8, "train", 0))
    assert [len(batch["label"]) for batch in batches] == [8, 8, 4]
    for batch in batches:
        np.testing.assert_allclose(batch["weight"], 1 / len(batch["label"]))


@pytest.mark.slow
def test_key_and_seed_decide_the_batches():
    images = ArrayImageSet(random_images(40), np.arange(40))
    make = pipeline("crop_mirror")
    first = gather(make.training_batches(images, 8, "train", 1, 0))
    again = gather(make.training_batches(images, 8, "train", 1, 0))
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    others = [
        make.training_batches(images, 8, "train", 1, 1),
        make.training_batches(images, 8, "train", 2, 0),
        make.training_batches(images, 8, "finetune", 1, 0),
        pipeline("crop_mirror", seed=1).training_batches(images, 8, "train", 1, 0),
    ]
    for other in others:
        assert gather(other)["label"].tolist() != first["label"].tolist()


def test_two_batches_of_an_epoch_are_augmented_differently():
    """The same images in both batches come out shifted otherwise."""
    images = ArrayImageSet(np.repeat(random_images(1), 32, axis=0), np.zeros(32))
    first, second = pipeline("crop_mirror").training_batches(images, 16, "train", 0)
    assert not np.array_equal(first["image"], second["image"])


@pytest.mark.parametrize("set_type", [ArrayImageSet, FileImageSet])
def test_number_of_threads_does_not_matter(set_type):
    images = set_type(random_images(40), np.arange(40, dtype=np.int32))
    results = []
    for threads in (1, 8):
        options = tf.data.Options()
        options.threading.private_threadpool_size = threads
        batches = pipeline("crop_mirror").training_batches(images, 8, "train", 0)
        results.append(gather(batches.with_options(options)))
    for name, value in results[0].items():
        np.testing.assert_array_equal(value, results[1][name])


def test_images_from_files_make_the_same_batches():
    images, labels = random_images(20), np.arange(20, dtype=np.int32)
    make = pipeline("crop_mirror")
    in_memory = gather(make.training_batches(ArrayImageSet(images, labels), 8, "train", 0))
    from_files = gather(make.training_batches(FileImageSet(images, labels), 8, "train", 0))
    for name, value in in_memory.items():
        np.testing.assert_array_equal(value, from_files[name])


def test_evaluation_keeps_order_and_pixels():
    images = ArrayImageSet(random_images(20), np.arange(20))
    batches = gather(pipeline("crop_mirror").evaluation_batches(images, 8))
    assert batches["label"].tolist() == list(range(20))
    expected = NORMALIZATION.normalize(tf.constant(images.images))
    np.testing.assert_array_equal(batches["image"], expected)


def test_concatenation():
    first = numbered_set(3)
    second = ArrayImageSet(random_images(2), np.array([7, 8]))
    empty = ArrayImageSet(np.zeros((0, 6, 6, 3), np.uint8), np.zeros(0))
    joined = concatenate([first, empty, second])
    assert joined.labels.tolist() == [0, 1, 2, 7, 8]
    expected = np.concatenate([first.images, second.images])
    np.testing.assert_array_equal(joined.load(tf.range(5, dtype=tf.int64)), expected)
    assert concatenate([empty, first]).labels.tolist() == [0, 1, 2]
