"""What TensorBoard is given, read back from the event files."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnemonics_tf import arrays
from mnemonics_tf.bilevel.learner import Course
from mnemonics_tf.data.image_set import ArrayImageSet
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.models.classifiers import CosineClassifier, LinearClassifier, LogitCorrection
from mnemonics_tf.models.incremental import Outputs
from mnemonics_tf.monitoring import diagnostics
from mnemonics_tf.monitoring.summaries import Summaries


@dataclasses.dataclass
class State:
    """As much of a model and its evaluator as diagnostics read."""

    classifier: keras.layers.Layer
    correction: LogitCorrection | None = None

    def outputs(self, images):
        features = images.load_all().reshape(len(images), -1)[:, :4].astype(np.float32) - 127.5
        logits = self.classifier(features)
        if self.correction:
            logits = self.correction(logits)
        return Outputs(features, logits.numpy()[:, : self.classifier.num_classes])


def make_state(classifier=LinearClassifier) -> State:
    layer = classifier(0, 3, seed=1)
    layer.build((None, 4))
    if classifier is CosineClassifier:
        layer.scale.assign(7.0)
    return State(layer)


def make_change(state, num_classes=3, channels=3) -> diagnostics.Change:
    """Two exemplars a class; those of class 0 do not learn."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(num_classes), 2)
    images = random.integers(0, 256, (len(labels), 5, 6, channels), np.uint8)
    learned, learns = images.copy(), labels > 0
    learned[learns] = random.integers(0, 256, learned[learns].shape, np.uint8)
    before = ExemplarMemory(images, labels)
    return diagnostics.measure_change(state, state, before, before.with_images(learned), learns)


def test_many_images_are_compared_a_few_at_a_time_and_to_the_bit(monkeypatch):
    before, after = np.random.default_rng(0).integers(0, 256, (2, 10, 7, 9, 3), np.uint8)
    moved = after.astype(np.float32) - before
    monkeypatch.setattr(arrays, "_AT_ONCE", 4)
    np.testing.assert_array_equal(
        arrays.grey_levels_moved(before, after), np.sqrt(np.square(moved).mean(axis=(1, 2, 3)))
    )
    after[:5, 0] = 0
    shown = dataclasses.replace(
        make_change(make_state()), end=ArrayImageSet(after, np.zeros(len(after)))
    )
    share = diagnostics.metrics(COURSE, shown)["clipped_share"]
    assert share == float(np.isin(after, (0, 255)).mean())


COURSE = Course([2.0, 1.5, 1.25], [(0, 0.5), (2, 0.75)], np.zeros(0))


@pytest.fixture
def events(tmp_path):
    """Shows a change and returns what a reader of the event files finds."""

    def read(*arguments, channels=3):
        change = make_change(make_state(), channels=channels)
        diagnostics.show(Summaries(tmp_path), "exemplars", 4, COURSE, change, 0, *arguments)
        return change, EventAccumulator(str(tmp_path), {"tensors": 0}).Reload()

    return read


def series(events, tag):
    return [(e.step, float(tf.make_ndarray(e.tensor_proto))) for e in events.Tensors(tag)]


def test_curves_over_the_outer_steps(events):
    _, found = events()
    assert series(found, "exemplars/phase04/meta_loss") == [(0, 2.0), (1, 1.5), (2, 1.25)]
    assert series(found, "exemplars/phase04/held_out_accuracy") == [(0, 0.5), (2, 0.75)]


def test_distributions_over_the_exemplars(events):
    herding = np.array([0.5, 1.5, 2.5])
    change, found = events(herding)
    for name, values in {
        "pixel_distance": change.pixel_distances,
        "margin_start": change.margins_start,
        "margin_end": change.margins_end,
        "margin_herding": herding,
    }.items():
        (event,) = found.Tensors(f"exemplars/{name}")
        buckets = tf.make_ndarray(event.tensor_proto)  # left edge, right edge, count
        assert event.step == 4
        assert np.all(np.isfinite(buckets))
        assert buckets[:, 2].sum() == len(values)
        np.testing.assert_allclose(
            [buckets[0, 0], buckets[-1, 1]], [values.min(), values.max()], rtol=1e-5
        )


def test_herding_is_left_out_where_nothing_is_known_of_it(events):
    _, found = events()
    assert "exemplars/margin_herding" not in found.Tags()["tensors"]


@pytest.mark.parametrize("channels", [1, 3])
def test_image_strips(events, channels):
    change, found = events(channels=channels)
    (event,) = found.Tensors("exemplars/start_end_difference")
    width, height, *pictures = tf.make_ndarray(event.tensor_proto)
    assert (int(width), int(height)) == (18, 5)
    assert len(pictures) == 2  # one of each class that learned
    for picture, row in zip(pictures, [0, 2], strict=True):
        decoded = tf.io.decode_png(picture, channels).numpy()
        start, end = change.start.images[row], change.end.images[row]
        np.testing.assert_array_equal(decoded[:, :6], start)
        np.testing.assert_array_equal(decoded[:, 6:12], end)
        difference = 128 + (end.astype(float) - start) / 2
        np.testing.assert_allclose(decoded[:, 12:], difference, atol=0.51)


def test_strips_show_some_of_many_classes():
    images = np.arange(50, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    pictures = ArrayImageSet(images, np.arange(50) // 2)
    none = np.zeros(50)
    shown = diagnostics.strips(diagnostics.Change(pictures, pictures, none, none, none, none))
    assert shown.shape == (10, 2, 6, 1)
    classes = shown[:, 0, 0, 0] // 2
    assert classes[0] == 0
    assert classes[-1] == 24
    assert len(set(classes)) == 10
    assert np.all(shown[:, :, 4:] == 128)


def test_distances_are_those_of_the_exemplars_that_learned():
    change = make_change(make_state())
    assert change.end.labels.tolist() == [1, 1, 2, 2]
    for row in range(4):
        start, end = (x.images[row].astype(float) for x in (change.start, change.end))
        assert change.pixel_distances[row] == pytest.approx(np.sqrt(np.mean((end - start) ** 2)))
        units = [x.ravel()[:4] - 127.5 for x in (start, end)]
        units = [unit / np.linalg.norm(unit) for unit in units]
        assert change.feature_distances[row] == pytest.approx(
            np.linalg.norm(units[1] - units[0]), rel=1e-4
        )


def test_metrics_are_means():
    change = make_change(make_state())
    found = diagnostics.metrics(COURSE, change)
    assert found["count"] == 4
    assert found["steps"] == 3
    assert found["stopped"] is None
    assert found["meta_loss"] == COURSE.meta_losses
    assert found["pixel_distance"] == pytest.approx(change.pixel_distances.mean())
    assert found["margin_start"] == pytest.approx(change.margins_start.mean())
    assert found["margin_end"] == pytest.approx(change.margins_end.mean())


def test_of_a_single_class_no_margin_is_told(tmp_path):
    """It has no boundary, and JSON knows no infinity."""
    none = np.full(4, np.inf)
    alone = dataclasses.replace(make_change(make_state()), margins_start=none, margins_end=none)
    found = diagnostics.metrics(COURSE, alone)
    assert found["margin_start"] is found["margin_end"] is None
    diagnostics.show(Summaries(tmp_path), "exemplars", 0, COURSE, alone, 0)
    tags = EventAccumulator(str(tmp_path), {"tensors": 0}).Reload().Tags()["tensors"]
    assert "exemplars/pixel_distance" in tags
    assert not [tag for tag in tags if "margin" in tag]


def test_a_long_course_is_thinned():
    course = Course([float(step) for step in range(1001)], [], np.zeros(0))
    losses = diagnostics.metrics(course, make_change(make_state()))["meta_loss"]
    assert len(losses) <= 200
    assert losses[0] == 0
    assert np.all(np.diff(losses) == losses[1])


def test_margins_of_a_cosine_classifier_ignore_lengths_and_scale():
    state = make_state(CosineClassifier)
    pixels = np.random.default_rng(1).integers(0, 256, (6, 5, 6, 1), np.uint8)
    images = ArrayImageSet(pixels, np.arange(6) % 3)
    features = pixels.reshape(6, -1)[:, :4] - 127.5
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    kernel = state.classifier.seen_kernel()
    kernel = kernel / np.linalg.norm(kernel, axis=0)
    expected = []
    for feature, label in zip(features, images.labels, strict=True):
        steps = [kernel[:, label] - kernel[:, k] for k in range(3) if k != label]
        expected.append(min(step @ feature / np.linalg.norm(step) for step in steps))
    np.testing.assert_allclose(
        diagnostics.feature_margins(state, state, images), expected, rtol=1e-4
    )


def test_margins_are_those_of_corrected_logits():
    """Where they lie, BiC's correction decides: a step as long as the margin reaches a boundary."""
    state = make_state()
    state.correction = LogitCorrection()
    state.correction.build((None, state.classifier.capacity))
    state.correction.set([2], 0.3, -1.0)
    pixels = np.random.default_rng(1).integers(0, 256, (6, 5, 6, 1), np.uint8)
    features = pixels.reshape(6, -1)[:, :4] - 127.5
    kernel = state.classifier.seen_kernel() * [1.0, 1.0, 0.3]
    bias = state.classifier.bias.numpy()[:3] * [1.0, 1.0, 0.3] + [0.0, 0.0, -1.0]
    logits = features @ kernel + bias
    labels = logits.argmax(axis=1)
    found = diagnostics.feature_margins(state, state, ArrayImageSet(pixels, labels))
    for feature, label, margin in zip(features, labels, found, strict=True):
        ways = [kernel[:, k] - kernel[:, label] for k in range(3) if k != label]
        for share, leaves in ((0.99, False), (1.01, True)):
            moved = [feature + share * margin * way / np.linalg.norm(way) for way in ways]
            now = [(one @ kernel + bias).argmax() for one in moved]
            assert any(k != label for k in now) == leaves
