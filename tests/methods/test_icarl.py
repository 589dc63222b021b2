import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.image_set import ArrayImageSet
from mnemonics_tf.data.pipeline import Pipeline
from mnemonics_tf.evaluation.evaluator import Evaluator
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.methods import METHODS
from tools.check_against_pytorch import NORMALIZATION, make_case

#: mean parts of the case `lwf` of tools/check_against_pytorch.py, by PyTorch 2.13
PYTORCH_PARTS = {"classification": 1.09008508, "distillation": 0.69441320}


@pytest.fixture(scope="module")
def case():
    return make_case("icarl", transfer=False)


def test_it_predicts_by_the_nearest_mean():
    assert METHODS["icarl"].prediction_head == "nme"
    assert METHODS["lwf"].prediction_head == "classifier"


def test_parts_of_a_whole_network_are_those_of_pytorch(case):
    images = NORMALIZATION.normalize(case.images.images)
    outputs, old_outputs = case.model(images, training=True), case.old_model(images)
    parts = case.loss_parts({"label": tf.constant(case.images.labels)}, outputs, old_outputs)
    means = {name: float(tf.reduce_mean(part)) for name, part in parts.items()}
    assert means == pytest.approx(PYTORCH_PARTS, rel=1e-5)


def test_nearest_mean_of_a_network_s_features(case):
    """By the definition: unit features of exemplars and of their mirror images, averaged."""

    def unit_features(images: np.ndarray) -> np.ndarray:
        features = case.model(NORMALIZATION.normalize(images)).features.numpy()
        return features / np.sqrt((features**2).sum(axis=1, keepdims=True))

    images = case.images.images
    labels = np.sort(case.images.labels)
    means = []
    for label in range(case.phase.num_seen):
        own = images[labels == label]
        means.append(np.concatenate([unit_features(own), unit_features(own[:, :, ::-1])]).mean(0))
        means[-1] /= np.linalg.norm(means[-1])
    test_images = np.random.default_rng(9).integers(0, 256, (30, 8, 8, 3), np.uint8)
    distances = np.linalg.norm(unit_features(test_images)[:, None] - np.stack(means), axis=2)

    pipeline = Pipeline(NORMALIZATION, augmentation=lambda images, seed: images, seed=0)
    evaluator = Evaluator(case.model, pipeline, 30, tf.distribute.get_strategy())
    class_means = evaluator.class_means(ExemplarMemory(images, labels), case.phase.num_seen)
    np.testing.assert_allclose(class_means, means, atol=1e-5)
    predictions = evaluator.predict(ArrayImageSet(test_images, np.zeros(30)), class_means)
    assert predictions.heads["nme"].tolist() == distances.argmin(axis=1).tolist()
    assert predictions.heads["nme"].tolist() != predictions.heads["classifier"].tolist()
