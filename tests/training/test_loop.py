import dataclasses
import gc

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf import devices
from mnemonics_tf.data.augmentation import AUGMENTATIONS
from mnemonics_tf.data.image_set import ArrayImageSet
from mnemonics_tf.data.pipeline import Normalization, Pipeline
from mnemonics_tf.methods.base import MeanOver, cross_entropy, distillation
from mnemonics_tf.models.architecture import Architecture
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.tracing import TRACES
from mnemonics_tf.training import loop as loop_module
from mnemonics_tf.training.feed import ResidentFeed, StreamedFeed, open_feed
from mnemonics_tf.training.loop import TrainingLoop
from mnemonics_tf.training.optimization import OptimizationSettings

pytestmark = pytest.mark.usefixtures("small_networks")

SETTINGS = OptimizationSettings(
    epochs=4,
    learning_rate=0.05,
    milestones=(2,),
    decay=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    decay_normalization=False,
    batch_size=8,
)


def loss_parts(batch, outputs, old_outputs):
    return {"classification": cross_entropy(batch["label"], outputs.logits)}


def make_model(seed: int = 0) -> IncrementalModel:
    return IncrementalModel(Architecture("resnet_cifar", 8, (8, 8, 1), "linear"), 0, 3, seed)


def make_loop(model, parts=loss_parts, settings=SETTINGS, seed=0, old_model=None, augment="shift"):
    pipeline = Pipeline(Normalization((0.5,), (0.5,)), AUGMENTATIONS[augment], seed)
    strategy = tf.distribute.get_strategy()
    return TrainingLoop(model, old_model, parts, settings, pipeline, strategy)


@pytest.fixture(scope="module")
def images() -> ArrayImageSet:
    """20 images, two batches of 8 and one of 4, whose brightness tells the class."""
    labels = np.arange(20) % 3
    noise = np.random.default_rng(0).integers(0, 60, (20, 8, 8, 1))
    return ArrayImageSet((noise + 90 * labels[:, None, None, None]).astype(np.uint8), labels)


@dataclasses.dataclass
class Course:
    """Four epochs without a break."""

    state: dict[str, np.ndarray]
    metrics: list[dict[str, float]]
    loop: TrainingLoop


@pytest.fixture(scope="module")
def uninterrupted(images) -> Course:
    model = make_model()
    loop = make_loop(model)
    metrics = [loop.run_epoch(images, epoch, "train", 0) for epoch in range(4)]
    return Course(model.state(), metrics, loop)


def check_equal(ours: dict[str, np.ndarray], expected: dict[str, np.ndarray]):
    assert ours.keys() == expected.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_the_model_learns(uninterrupted):
    first, last = uninterrupted.metrics[0], uninterrupted.metrics[-1]
    assert last["loss"] < 0.7 * first["loss"]
    assert last["accuracy"] > max(0.6, first["accuracy"])
    rates = [metrics["learning_rate"] for metrics in uninterrupted.metrics]
    assert rates == pytest.approx([0.05, 0.05, 0.005, 0.005])
    assert last["images_per_second"] > 0


def test_calls_that_trace_do_not_count_in_the_speed(monkeypatch):
    now = iter([0.0, 30.0, 30.0, 32.0])
    monkeypatch.setattr(loop_module.time, "perf_counter", lambda: next(now))
    speed = loop_module.Speed()
    with speed.of(60):
        TRACES.note("a test's")
    assert speed.images_per_second == 2
    with speed.of(400):
        pass
    assert speed.images_per_second == 200


def test_all_epochs_of_all_stages_run_in_one_graph(images):
    before = TRACES.counts.copy()
    model = make_model()
    loop = make_loop(model)
    for count in (20, 12, 17):  # short last batches of 4, 4 and 1
        loop.run_epoch(images.subset(np.arange(count)), 0, "train", 0)
    model.grow(4)
    loop.start_stage(dataclasses.replace(SETTINGS, epochs=9, learning_rate=0.01))
    loop.run_epoch(images, 0, "train", 1)
    assert dict(TRACES.counts - before) == {"train, resident uint8": 1}


@pytest.mark.slow
def test_a_resumed_loop_is_equal_bit_for_bit(uninterrupted, images):
    model = make_model()
    loop = make_loop(model)
    for epoch in range(2):
        loop.run_epoch(images, epoch, "train", 0)
    resumed_model = make_model(seed=9)
    resumed_model.set_state(model.state())
    resumed = make_loop(resumed_model)
    resumed.set_state(loop.state())
    metrics = [resumed.run_epoch(images, epoch, "train", 0) for epoch in (2, 3)]
    check_equal(resumed_model.state(), uninterrupted.state)
    for ours, expected in zip(metrics, uninterrupted.metrics[2:], strict=True):
        del ours["images_per_second"]
        assert ours == {name: expected[name] for name in ours}


def test_momentum_belongs_to_the_state(uninterrupted):
    momenta = [value for value in uninterrupted.loop.state().values() if value.ndim]
    assert momenta
    assert all(np.abs(momentum).max() > 0 for momentum in momenta)


@pytest.mark.slow
def test_another_seed_is_another_course(images):
    states = []
    for seed in (0, 1):
        model = make_model()
        make_loop(model, seed=seed).run_epoch(images, 0, "train", 0)
        states.append(model.state())
    assert not np.array_equal(states[0]["stem/kernel"], states[1]["stem/kernel"])


@pytest.mark.slow
def test_a_step_on_a_short_batch_is_the_mean_over_its_images(images):
    """One step of plain SGD: weights move against the mean gradient of 5 images."""
    few = images.subset(np.arange(5))
    settings = dataclasses.replace(SETTINGS, momentum=0.0, weight_decay=0.0)
    model, reference = make_model(), make_model()
    metrics = make_loop(model, settings=settings, augment="none").run_epoch(few, 0, "train", 0)
    inputs = (few.images / 255 - 0.5).astype(np.float32) / 0.5
    variables = reference.trainable_variables
    with tf.GradientTape() as tape:
        logits = reference(tf.constant(inputs), training=True).logits
        probabilities = tf.nn.softmax(logits)
        loss = -tf.reduce_mean(tf.math.log(tf.gather(probabilities, few.labels, batch_dims=1)))
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)
    for gradient, variable in zip(tape.gradient(loss, variables), variables, strict=True):
        expected = variable.numpy() - 0.05 * gradient.numpy()
        expected = reference.seen_part(variable, expected)
        np.testing.assert_allclose(model.state()[variable.path], expected, atol=1e-5)


@pytest.mark.slow
def test_old_model_is_asked_in_inference_and_left_alone(images):
    old_model = make_model(seed=3).frozen_copy()
    before = old_model.state()
    model = make_model()

    def parts(batch, outputs, old_outputs):
        expected = old_model(batch["image"], training=False).logits
        difference = tf.abs(old_outputs.logits - expected)
        return {
            "distillation": distillation(outputs.logits, old_outputs.logits, 2.0),
            "difference": tf.reduce_max(difference, axis=1),
        }

    metrics = make_loop(model, parts, old_model=old_model).run_epoch(images, 0, "train", 1)
    check_equal(old_model.state(), before)
    assert metrics["difference"] == pytest.approx(0, abs=1e-5)
    assert metrics["loss"] == pytest.approx(metrics["distillation"] + metrics["difference"])


@pytest.mark.slow
def test_weight_transfer_leaves_the_kernels_as_they_are(images):
    model = make_model()
    model.enable_transfer()
    before = model.state()
    make_loop(model).run_epoch(images, 0, "train", 0)
    after = model.state()
    moved = {
        name.split("/")[-1] for name in before if not np.array_equal(before[name], after[name])
    }
    assert moved == {
        *("transfer_scale", "gamma", "beta", "moving_mean", "moving_variance"),
        *("kernel", "bias"),
    }
    kernels = [name for name in before if name.endswith("/kernel")]
    moved = [name for name in kernels if not np.array_equal(before[name], after[name])]
    assert moved == ["classifier/kernel"]


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_training(images):
    def parts(batch, outputs, old_outputs):
        return {"classification": cross_entropy(batch["label"], outputs.logits) * np.nan}

    with pytest.raises(FloatingPointError, match="loss is nan in epoch 3 of train/2.*rate"):
        make_loop(make_model(), parts).run_epoch(images, 3, "train", 2)


@pytest.mark.slow
def test_calls_of_any_length_and_a_pause_within_an_epoch_change_nothing(uninterrupted, images):
    """Stopped after a step of an epoch, going on from there in a new loop, a step in each call."""
    model = make_model()
    loop = make_loop(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module, "SECONDS_PER_CALL", 0.0)
        for moment in loop.run(images, range(4), ("train", 0)):
            if (moment.epoch, moment.step) == (2, 1):
                break
    assert moment.position == 7
    resumed_model = make_model(seed=9)
    resumed_model.set_state(model.state())
    resumed = make_loop(resumed_model)
    resumed.set_state(loop.state())
    *_, last = resumed.run(images, range(2, 4), ("train", 0), 1, moment.totals)
    check_equal(resumed_model.state(), uninterrupted.state)
    del last.metrics["images_per_second"]
    expected = uninterrupted.metrics[3]
    assert last.metrics == {name: expected[name] for name in last.metrics}


@pytest.fixture
def short_calls(monkeypatch):
    """Every call takes one step, as on a slow device."""
    monkeypatch.setattr(loop_module, "SECONDS_PER_CALL", 0.0)


@pytest.mark.usefixtures("short_calls")
def test_the_length_of_calls_decides_nothing(uninterrupted, images):
    model = make_model()
    loop = make_loop(model)
    moments = list(loop.run(images, range(4), ("train", 0)))
    assert [(m.epoch, m.step) for m in moments] == [(e, s) for e in range(4) for s in (1, 2, 3)]
    check_equal(model.state(), uninterrupted.state)
    assert moments[-1].metrics["loss"] == uninterrupted.metrics[3]["loss"]


def test_means_are_over_images_and_not_over_batches():
    """130 images in batches of 129 and 1: the one counts as much as each of the others."""
    labels = np.arange(130) % 2
    noise = np.random.default_rng(0).integers(0, 40, (130, 8, 8, 1))
    images = ArrayImageSet((noise + 120 * labels[:, None, None, None]).astype(np.uint8), labels)
    seen = []

    def parts(batch, outputs, old_outputs):
        right = tf.argmax(outputs.logits, 1, tf.int32) == batch["label"]
        losses = cross_entropy(batch["label"], outputs.logits)
        tf.py_function(lambda *values: seen.append(values), [right, losses], [])
        return {"classification": losses, "odd": MeanOver(losses, batch["label"] == 1)}

    settings = dataclasses.replace(SETTINGS, batch_size=129)
    loop = make_loop(make_model(), parts, settings, augment="none")
    for epoch in range(2):
        seen.clear()
        metrics = loop.run_epoch(images, epoch, "train", 0)
        right, losses = (np.concatenate(values) for values in zip(*seen, strict=True))
        assert len(right) == 130
        assert metrics["accuracy"] == pytest.approx(right.mean())
        assert metrics["classification"] == pytest.approx(losses.mean(), rel=1e-5)
        assert 0 < metrics["odd"] != pytest.approx(metrics["classification"])


@pytest.mark.parametrize("augment", ["shift", "crop_mirror", "resized_crop_mirror"])
@pytest.mark.parametrize("fill", [False, True])
def test_both_feeds_give_equal_batches(images, augment, fill):
    pipeline = Pipeline(Normalization((0.4,), (0.3,)), AUGMENTATIONS[augment], 5)
    strategy = tf.distribute.get_strategy()
    resident = ResidentFeed(pipeline, images, 8, ("train", 2), fill)
    streamed = StreamedFeed(pipeline, images, 8, ("train", 2), range(1, 3), 1, strategy, fill)
    take = tf.function(resident.batch)
    for epoch, step in [(1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]:
        ours = take(resident.epoch(epoch), tf.constant(step, tf.int64))
        theirs = streamed.batch(streamed.epoch(epoch), tf.constant(step, tf.int64))
        assert len(ours["label"]) == (8 if fill or step < 2 else 4)
        for name in ("image", "label", "weight"):
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.parametrize(("gpus", "bytes_a_pixel"), [([], 1), (["GPU:0"], 2)])
def test_images_are_resident_by_what_they_take_on_the_device(
    images, monkeypatch, gpus, bytes_a_pixel
):
    pipeline = Pipeline(Normalization((0.4,), (0.3,)), AUGMENTATIONS["shift"], 5)
    strategy = tf.distribute.get_strategy()
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus)
    room = 4 * bytes_a_pixel * images.images.size
    for available, kind in ((room, ResidentFeed), (room - 4, StreamedFeed)):
        monkeypatch.setattr(devices, "available_bytes", lambda free=available: free)
        feed = open_feed(pipeline, images, 8, ("train",), range(1), 0, strategy, compiled=True)
        assert isinstance(feed, kind)


@pytest.mark.slow
def test_a_graph_holds_no_data_of_a_stage_that_has_ended(images):
    loop = make_loop(make_model())
    loop.run_epoch(images, 0, "train", 0)
    gc.collect()
    assert not [o for o in gc.get_objects() if isinstance(o, ResidentFeed)]


def test_training_without_momentum_is_saved_and_resumed(images):
    """Keras makes no velocities then."""
    settings = dataclasses.replace(SETTINGS, momentum=0.0)
    whole, model = make_model(), make_model()
    loop = make_loop(whole, settings=settings)
    for epoch in range(2):
        loop.run_epoch(images, epoch, "train", 0)
    loop = make_loop(model, settings=settings)
    loop.run_epoch(images, 0, "train", 0)
    assert loop.state() == {}
    resumed, state = make_model(seed=1), loop.state()
    resumed.set_state(model.state())
    loop = make_loop(resumed, settings=settings)
    loop.set_state(state)
    loop.run_epoch(images, 1, "train", 0)
    check_equal(resumed.state(), whole.state())


@pytest.mark.slow
def test_a_loss_need_not_use_the_logits(images):
    def parts(batch, outputs, old_outputs):
        return {"size": tf.reduce_mean(tf.square(outputs.features), axis=1)}

    settings = dataclasses.replace(SETTINGS, weight_decay=0.0)
    model = make_model()
    before = model.state()
    make_loop(model, parts, settings).run_epoch(images, 0, "train", 0)
    after = model.state()
    for name, value in before.items():
        if name.startswith("classifier/"):
            np.testing.assert_array_equal(after[name], value)
    assert np.any(after["stem/kernel"] != before["stem/kernel"])
