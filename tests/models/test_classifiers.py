import numpy as np
import pytest

from mnemonics_tf.models.classifiers import CosineClassifier, LinearClassifier, capacity_for


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def make_classifier(kind, num_old, num_new, seed=0, dimension=6, capacity=None):
    layer = kind(num_old, num_new, seed, capacity)
    layer.build((None, dimension))
    return layer


def seen_logits(layer, features) -> np.ndarray:
    return layer(features).numpy()[:, : layer.num_classes]


@pytest.mark.parametrize("num_old", [0, 2])
def test_linear_logits(num_old):
    layer = make_classifier(LinearClassifier, num_old, 3)
    kernel = random(6, num_old + 3, seed=1)
    layer.set_kernel(kernel)
    layer.bias.assign(np.pad(random(num_old + 3, seed=2), (0, layer.capacity - num_old - 3)))
    features = random(5, 6, seed=3)
    expected = features @ kernel + random(num_old + 3, seed=2)
    np.testing.assert_allclose(seen_logits(layer, features), expected, atol=1e-5)
    assert layer.num_classes == num_old + 3
    assert layer(features).shape == [5, layer.capacity]


@pytest.mark.parametrize("num_old", [0, 2])
def test_cosine_logits(num_old):
    layer = make_classifier(CosineClassifier, num_old, 3)
    kernel = random(6, num_old + 3, seed=1)
    layer.set_kernel(kernel)
    layer.scale.assign(7.0)
    features = random(5, 6, seed=3)
    for n, row in enumerate(seen_logits(layer, features)):
        for k, logit in enumerate(row):
            lengths = np.linalg.norm(features[n]) * np.linalg.norm(kernel[:, k])
            assert logit == pytest.approx(7 * features[n] @ kernel[:, k] / lengths, abs=1e-5)


def test_cosine_scale_starts_at_one():
    layer = make_classifier(CosineClassifier, 0, 3)
    features = random(2, 6)
    np.testing.assert_array_equal(layer(features), layer.cosines(features))
    assert "scale" in {variable.name for variable in layer.trainable_variables}


@pytest.mark.parametrize("kind", [LinearClassifier, CosineClassifier])
def test_frozen_old_weights_are_out_of_training(kind):
    layer = make_classifier(kind, 2, 3)
    assert np.flatnonzero(layer.trained_columns()).tolist() == [0, 1, 2, 3, 4]
    layer.freeze_old()
    assert np.flatnonzero(layer.trained_columns()).tolist() == [2, 3, 4]
    layer.set_classes(5, 2)  # the next phase
    assert np.flatnonzero(layer.trained_columns()).tolist() == [5, 6]


def test_first_classes_have_nothing_to_freeze():
    layer = make_classifier(LinearClassifier, 0, 3)
    layer.freeze_old()
    assert np.flatnonzero(layer.trained_columns()).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("classes", "capacity"), [(1, 64), (64, 64), (65, 128), (1000, 1024)])
def test_there_is_room_for_a_multiple_of_64_classes(classes, capacity):
    assert capacity_for(classes) == make_classifier(LinearClassifier, 0, classes).capacity
    assert capacity_for(classes) == capacity


@pytest.mark.parametrize("kind", [LinearClassifier, CosineClassifier])
def test_first_weights_do_not_depend_on_the_capacity(kind):
    narrow, wide = (make_classifier(kind, 2, 3, seed=4, capacity=c) for c in (5, 128))
    np.testing.assert_array_equal(narrow.seen_kernel(), wide.seen_kernel())
    np.testing.assert_array_equal(wide.kernel.numpy()[:, :2], 0)
    np.testing.assert_array_equal(wide.kernel.numpy()[:, 5:], 0)


def test_new_weights_are_uniform_within_the_root_of_the_dimension():
    layer = make_classifier(LinearClassifier, 0, 200, dimension=64)
    kernel = layer.seen_kernel()
    assert np.abs(kernel).max() <= 1 / 8
    assert np.abs(kernel).max() > 0.12
    assert kernel.std() == pytest.approx(0.125 / np.sqrt(3), rel=0.03)
