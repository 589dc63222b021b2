import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.augmentation import AUGMENTATIONS
from mnemonics_tf.data.image_set import ArrayImageSet
from mnemonics_tf.data.pipeline import Normalization, Pipeline
from mnemonics_tf.evaluation.evaluator import Evaluator, Predictions
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.models.incremental import Outputs

PIPELINE = Pipeline(Normalization((0.5,), (0.25,)), AUGMENTATIONS["crop_mirror"], 0)
random = np.random.default_rng(0)
PROJECTION = random.normal(size=(36, 5)).astype(np.float32)
KERNEL = random.normal(size=(5, 3)).astype(np.float32)


def predict(images: tf.Tensor) -> Outputs:
    """A model for which left and right are not the same."""
    features = tf.reshape(images, [-1, 36]) @ PROJECTION + 1.0
    return Outputs(features, features @ KERNEL)


def predict_by_hand(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pixels = (images.astype(np.float64) / 255 - 0.5) / 0.25
    features = pixels.reshape(len(images), 36) @ PROJECTION + 1.0
    return features, features @ KERNEL


def make_evaluator(batch_size: int = 4) -> Evaluator:
    return Evaluator(predict, PIPELINE, batch_size, tf.distribute.get_strategy())


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.sqrt((vectors**2).sum(axis=-1, keepdims=True))


def means_by_hand(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Each class: unit features of every exemplar and of its mirror image, averaged."""
    means = []
    for label in range(3):
        members = []
        for image in images[labels == label]:
            turned = np.stack([row[::-1] for row in image])
            members += [unit(predict_by_hand(side[None])[0])[0] for side in (image, turned)]
        means.append(unit(np.mean(members, axis=0)))
    return np.stack(means)


@pytest.fixture(scope="module")
def images() -> ArrayImageSet:
    pixels = np.random.default_rng(1).integers(0, 256, (10, 6, 6, 1), np.uint8)
    return ArrayImageSet(pixels, np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2]))


@pytest.mark.parametrize("batch_size", [3, 10, 50])
def test_outputs_of_all_images_in_their_order(images, batch_size):
    outputs = make_evaluator(batch_size).outputs(images)
    features, logits = predict_by_hand(images.images)
    np.testing.assert_allclose(outputs.features, features, atol=1e-4)
    np.testing.assert_allclose(outputs.logits, logits, atol=1e-4)


@pytest.mark.parametrize("mirrored", [False, True])
def test_features_are_those_of_the_outputs_and_no_logits_are_looked_at(
    images, mirrored, monkeypatch
):
    expected = make_evaluator().outputs(images, mirrored).features
    batches = []

    def watched(rows, mirrored):
        for features, *others in Evaluator._on_one_device(evaluator, rows, mirrored):
            batches.append(len(features))
            yield (features, *[None for _ in others])

    evaluator = make_evaluator()
    monkeypatch.setattr(evaluator, "_on_one_device", watched)
    np.testing.assert_array_equal(evaluator.features(images, mirrored), expected)
    if not mirrored:
        pixels = PIPELINE.normalization.normalize_on_host(images.images)
        np.testing.assert_array_equal(evaluator.features_of_pixels(pixels), expected)
    assert batches == [4, 4, 2] * (1 if mirrored else 2)


def test_outputs_are_of_seen_classes_and_hold_no_others(images):
    def wide(batch):
        outputs = predict(batch)
        return Outputs(outputs.features, tf.tile(outputs.logits, [1, 9]), num_seen=tf.constant(3.0))

    evaluator = Evaluator(wide, PIPELINE, 4, tf.distribute.get_strategy())
    found, expected = evaluator.outputs(images), make_evaluator().outputs(images)
    np.testing.assert_array_equal(found.logits, expected.logits)
    for array in (found.logits, found.features):
        assert array.base is None


def test_mirrored_images_are_turned_left_to_right(images):
    outputs = make_evaluator().outputs(images, mirrored=True)
    features, _ = predict_by_hand(images.images[:, :, ::-1])
    np.testing.assert_allclose(outputs.features, features, atol=1e-4)


def test_class_means_are_over_images_and_their_mirrors(images):
    memory = ExemplarMemory(images.images, images.labels)
    means = make_evaluator().class_means(memory, 3)
    np.testing.assert_allclose(means, means_by_hand(images.images, images.labels), atol=1e-5)
    unmirrored = unit(predict_by_hand(images.images)[0])
    unmirrored = unit(np.stack([unmirrored[images.labels == k].mean(axis=0) for k in range(3)]))
    assert np.abs(means - unmirrored).max() > 1e-3


def test_both_heads_predict(images):
    test = ArrayImageSet(
        np.random.default_rng(2).integers(0, 256, (40, 6, 6, 1), np.uint8), np.arange(40) % 3
    )
    means = means_by_hand(images.images, images.labels)
    predictions = make_evaluator().predict(test, means.astype(np.float32))
    features, logits = predict_by_hand(test.images)
    distances = [[np.linalg.norm(row - mean) for mean in means] for row in unit(features)]
    assert predictions.heads["classifier"].tolist() == np.argmax(logits, axis=1).tolist()
    assert predictions.heads["nme"].tolist() == np.argmin(distances, axis=1).tolist()
    assert predictions.labels.tolist() == test.labels.tolist()
    assert len(set(predictions.heads["nme"].tolist())) == 3


def test_summary_of_both_heads():
    labels = np.array([0, 0, 1, 2])
    heads = {"classifier": np.array([0, 1, 1, 2]), "nme": np.array([2, 2, 2, 2])}
    summary = Predictions(labels, heads).summary([range(2), range(2, 3)])
    assert summary["classifier"] == {
        "accuracy": 0.75,
        "group_accuracies": [2 / 3, 1.0],
        "confusion_matrix": [[1, 1, 0], [0, 1, 0], [0, 0, 1]],
    }
    assert summary["nme"]["accuracy"] == 0.25
    assert summary["nme"]["group_accuracies"] == [0.0, 1.0]


@pytest.mark.parametrize(("num_classes", "told"), [(20, False), (21, True)])
def test_many_classes_have_a_top_5_accuracy(num_classes, told):
    labels = np.arange(num_classes)
    scores = np.tile(np.arange(num_classes, 0.0, -1.0), (num_classes, 1))  # the first ones lead
    predictions = Predictions(labels, {"classifier": scores.argmax(axis=1)}, {"classifier": scores})
    groups = [range(num_classes)]
    figures = predictions.summary(groups)["classifier"]
    assert figures.get("top5_accuracy") == (5 / num_classes if told else None)
    untested = predictions.summary([range(num_classes + 1)])["classifier"]
    assert untested.get("top5_accuracy") is None


def test_the_model_is_run_as_it_stands():
    """Not as it stood when the graph was made."""
    weight = tf.Variable(1.0)

    def scaled(batch):
        features = weight * tf.reshape(batch, [-1, 36])
        return Outputs(features, features)

    evaluator = Evaluator(scaled, PIPELINE, 4, tf.distribute.get_strategy())
    white = ArrayImageSet(np.full((6, 6, 6, 1), 255, np.uint8), np.zeros(6))
    first = evaluator.outputs(white).features
    weight.assign(3.0)
    np.testing.assert_allclose(evaluator.outputs(white).features, 3 * first)
