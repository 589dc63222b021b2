import collections

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf import bilevel
from mnemonics_tf.bilevel.batches import balanced_batches, balanced_order
from mnemonics_tf.bilevel.objectives.unrolled_training import UnrolledTraining
from mnemonics_tf.bilevel.on_features import Encoder
from mnemonics_tf.bilevel.problem import MetaGradientResult
from mnemonics_tf.data.augmentation import AUGMENTATIONS
from mnemonics_tf.models.architecture import Architecture
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.models.resnet import BACKBONES, Backbone
from mnemonics_tf.phases.temporary_model import TemporaryModel, fresh_weights
from mnemonics_tf.settings import InnerSettings, OuterSettings

pytestmark = pytest.mark.usefixtures("small_networks")

SCOPES = ("all", "transfer", "classifier")
LABELS = np.array([0, 1, 2, 3, 0, 1, 2, 3])
BLACK = np.array([-1.5, -2.0, -1.0])


def settings(**changes) -> InnerSettings:
    fields = {"steps": 2, "learning_rate": 0.5, "batch_size": 4} | changes
    return InnerSettings(**{f"inner_{name}": value for name, value in fields.items()})


def make_model(classifier: str = "cosine") -> IncrementalModel:
    """A network over 2 old and 2 new classes, with uneven statistics and transfer switched on."""
    random = np.random.default_rng(2)
    model = IncrementalModel(Architecture("resnet_cifar", 8, (8, 8, 3), classifier), 2, 2, seed=5)
    model.classifier.set_kernel(random.normal(size=(model.feature_size, 4)))
    model.enable_transfer()
    for variable in model.variables:
        if variable.name == "moving_variance":
            variable.assign(random.uniform(0.5, 2.0, variable.shape))
        if variable.name in ("moving_mean", "bias"):
            variable.assign(0.3 * random.normal(size=variable.shape))
        if variable.name == "scale":
            variable.assign(3.0)
    return model


def make_objective(
    base: InnerSettings, model=None, seed: int = 0, jit_compile: bool = False
) -> UnrolledTraining:
    augmentation = AUGMENTATIONS["crop_mirror"]
    network = TemporaryModel(model or make_model(), base, augmentation, BLACK, seed=seed)
    return UnrolledTraining(network, base, OuterSettings(), seed, jit_compile)


def data(dtype=np.float32):
    random = np.random.default_rng(3)
    exemplars = random.normal(size=(8, 8, 8, 3)).astype(dtype)
    return exemplars, random.normal(size=(12, 8, 8, 3)).astype(dtype), np.arange(12) % 4


def estimate(objective: UnrolledTraining, *key, exemplars=None):
    own, outer_images, outer_labels = data()
    exemplars = own if exemplars is None else exemplars
    outer = {
        "image": tf.constant(outer_images, exemplars.dtype),
        "label": tf.constant(outer_labels),
    }
    key = key or ("exemplars", 0, 0)
    learning = np.ones(len(LABELS), bool)
    return objective.estimate(tf.constant(exemplars), LABELS, learning, outer, *key)


def test_features_alone_are_kept_of_an_outer_batch_of_images(monkeypatch):
    """However many there are: Eq. 10 measures on as many exemplars as it has."""
    given = set()
    outer_logits = TemporaryModel.outer_logits

    def watched(network, parameters, outer):
        given.update(outer)
        return outer_logits(network, parameters, outer)

    monkeypatch.setattr(TemporaryModel, "outer_logits", watched)
    base = settings(scope="classifier")
    by_image = estimate(make_objective(base))
    assert given == {"feature", "label"}
    model = make_model()
    _, images, labels = data()
    outer = {"feature": model.backbone(images), "label": tf.constant(labels)}
    learning = np.ones(len(LABELS), bool)
    key = ("exemplars", 0, 0)
    by_feature = make_objective(base, model).estimate(
        tf.constant(data()[0]), LABELS, learning, outer, *key
    )
    np.testing.assert_allclose(by_image.outer_loss, by_feature.outer_loss, rtol=1e-5)


def test_features_that_a_backbone_leaves_in_16_bits_are_cast(monkeypatch):
    def build(image_shape, depth, seed):
        pooled = keras.layers.GlobalAveragePooling2D(dtype="float16")
        return keras.Sequential([keras.Input(image_shape), pooled])

    monkeypatch.setitem(BACKBONES, "narrow", Backbone(build, lambda depth: None))
    model = IncrementalModel(Architecture("narrow", 8, (8, 8, 3), "linear"), 0, 4, seed=5)
    result = estimate(make_objective(settings(scope="classifier"), model))
    assert np.any(result.exemplar_gradient != 0)
    assert model(data()[0]).features.dtype == tf.float32


# --- the gradient --------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["fresh_head", "model"])
def test_a_correction_of_logits_belongs_to_the_trained_head(start):
    """BiC's gain and offset were fitted to the classifier that a fresh one takes the place of."""
    model = IncrementalModel(
        Architecture("resnet_cifar", 8, (8, 8, 3), "linear", corrects_logits=True), 2, 2, seed=5
    )
    base = settings(scope="classifier", start=start)
    network = TemporaryModel(model, base, AUGMENTATIONS["none"], BLACK, seed=0)
    outer = {"feature": model.backbone(data()[1])}
    plain = network.outer_logits(network.start("key"), outer).numpy()[:, :4]
    model.correct_logits([2, 3], 0.5, -1.0)
    corrected = network.outer_logits(network.start("key"), outer).numpy()[:, :4]
    if start == "model":
        plain[:, 2:] = 0.5 * plain[:, 2:] - 1
    np.testing.assert_allclose(corrected, plain, rtol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_gradient_is_compiled_on_demand(jit_compile, monkeypatch):
    asked = []

    def create(name, problem, truncated_steps, jit_compile):
        asked.append(jit_compile)
        return bilevel.Sweep(problem)

    monkeypatch.setattr(bilevel, "create", create)
    make_objective(settings(), jit_compile=jit_compile)
    assert asked == [jit_compile]


@pytest.mark.parametrize(
    "changes",
    [*({"scope": scope} for scope in SCOPES), {"scope": "all", "batch_statistics": True}],
    ids=[*SCOPES, "batch_statistics"],
)
@pytest.mark.slow
def test_gradient_matches_finite_differences(changes, double_precision):
    """With a fresh head, mini-batches, momentum, and differentiable crops and mirrors.

    All of that must leave the model as it is, moving statistics included.
    """
    rate = 1.0 if changes["scope"] == "classifier" else 0.02
    model = make_model()
    before = model.state()
    objective = make_objective(settings(learning_rate=rate, **changes), model)
    exemplars = data(np.float64)[0]
    result = estimate(objective, exemplars=exemplars)
    gradient = result.exemplar_gradient.numpy()
    random, step = np.random.default_rng(7), 3e-5
    for direction in random.normal(size=(3, *exemplars.shape)) / np.sqrt(exemplars.size):
        ahead, behind = (
            float(estimate(objective, exemplars=exemplars + sign * direction).outer_loss)
            for sign in (step, -step)
        )
        difference = (ahead - behind) / (2 * step)
        assert np.vdot(gradient, direction) == pytest.approx(difference, rel=1e-4)
        assert abs(difference) > 1e-7
    trained = zip(result.final_parameters, model.scope_variables(changes["scope"]), strict=True)
    assert all(np.any(value != variable.value) for value, variable in trained)
    for name, values in model.state().items():
        np.testing.assert_array_equal(values, before[name])


@pytest.mark.slow
def test_outer_data_may_come_as_features():
    model = make_model()
    exemplars, outer_images, outer_labels = data()
    features, label = model.backbone(outer_images), tf.constant(outer_labels)
    results = [
        make_objective(settings(), model).estimate(
            tf.constant(exemplars),
            LABELS,
            np.ones(len(LABELS), bool),
            {**outer, "label": label},
            *("exemplars", 0, 0),
        )
        for outer in ({"image": tf.constant(outer_images)}, {"feature": features})
    ]
    np.testing.assert_allclose(*[result.outer_loss for result in results], rtol=1e-5)
    np.testing.assert_allclose(*[result.exemplar_gradient for result in results], atol=1e-6)


@pytest.mark.slow
def test_a_model_that_changed_is_seen():
    """The run trains one model for many phases; nothing of it may be frozen into a graph."""
    model = make_model()
    objective = make_objective(settings(), model)
    before = float(estimate(objective).outer_loss)
    kernel = next(model.transfer_layers()).kernel
    kernel.assign(0.5 * kernel.value + 0.1)
    assert abs(float(estimate(objective).outer_loss) - before) > 1e-4


# --- where and on what the inner loop runs -------------------------------------------------------


@pytest.fixture
def recorded(monkeypatch):
    """What temporary models pass to their estimator; nothing is computed."""
    calls = []

    class Recorder:
        def estimate(self, **arguments):
            calls.append(arguments)
            return MetaGradientResult(tf.constant(0.0), arguments["exemplars"], tf.zeros(1), [])

    monkeypatch.setattr(bilevel, "create", lambda *_: Recorder())
    return calls


def start_of(recorded, base, model, *key):
    """What the base level starts from, by variable."""
    estimate(make_objective(base, model), *key)
    variables = model.scope_variables(base.inner_scope)
    return {
        variable.path: np.array(value)
        for variable, value in zip(variables, recorded[-1]["parameters"], strict=True)
    }


@pytest.mark.parametrize("classifier", ["cosine", "linear"])
def test_a_fresh_head_for_every_outer_step_and_the_rest_as_it_is(recorded, classifier):
    model, base = make_model(classifier), settings(scope="transfer")
    state = model.state()
    first, second = (start_of(recorded, base, model, "exemplars", 0, step) for step in (0, 1))
    heads = {v.path: v.name for v in model.classifier.variables}
    assert set(heads.values()) == {
        "kernel",
        "scale" if classifier == "cosine" else "bias",
    }
    for path, value in first.items():
        if heads.get(path) == "bias":
            np.testing.assert_array_equal(value, 0)
        elif heads.get(path) == "kernel":
            seen = value[:, :4]
            assert np.all(np.any(seen != state[path], axis=0))
            assert np.all(np.any(seen != second[path][:, :4], axis=0))
            np.testing.assert_array_equal(value[:, 4:], 0)
        else:
            np.testing.assert_array_equal(value, state[path])


def test_the_models_own_head(recorded):
    model = make_model()
    for path, value in start_of(recorded, settings(scope="all", start="model"), model).items():
        expected = model.state()[path]
        np.testing.assert_array_equal(
            value[..., : expected.shape[-1]] if value.ndim else value, expected
        )


def test_fresh_weights_are_drawn_as_the_layer_draws_them():
    model = IncrementalModel(Architecture("resnet_cifar", 8, (8, 8, 3), "linear"), 50, 50, seed=5)
    generator = np.random.default_rng(0)
    for variable in model.classifier.variables:
        fresh = fresh_weights(variable, generator, model.classifier).numpy()[..., :100]
        if variable.name == "bias":
            np.testing.assert_array_equal(fresh, 0)
            continue
        assert fresh.min() == pytest.approx(-1 / 8, abs=0.01)
        assert fresh.max() == pytest.approx(1 / 8, abs=0.01)
        assert fresh.std() == pytest.approx(model.classifier.seen_kernel()[:, 50:].std(), rel=0.05)


def batches_of(recorded, **changes) -> np.ndarray:
    estimate(make_objective(settings(scope="all", **changes)))
    return recorded[-1]["batches"]


def test_an_epoch_of_inner_batches_sees_every_exemplar_once(recorded):
    batches = batches_of(recorded, steps=6, batch_size=4)
    assert batches.shape == (6, 4)
    epochs = batches.reshape(3, 8)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(8), (3, 1)))
    assert np.any(epochs[0] != epochs[1])
    np.testing.assert_array_equal(np.sort(LABELS[batches], axis=1), np.tile(np.arange(4), (6, 1)))


def test_an_epoch_that_the_batch_size_does_not_divide(recorded):
    batches = batches_of(recorded, steps=5, batch_size=3)
    assert batches.shape == (5, 3)
    for epoch in (batches[:2], batches[2:4]):
        assert len(np.unique(epoch)) == 6
    assert all(len(np.unique(LABELS[batch])) >= 2 for batch in batches)


@pytest.mark.parametrize("batch_size", [0, 8, 100])
def test_full_batches(recorded, batch_size):
    batches = batches_of(recorded, steps=3, batch_size=batch_size)
    np.testing.assert_array_equal(batches, np.tile(np.arange(8), (3, 1)))


def test_seed_and_key_decide_what_is_random(recorded):
    base, model = settings(scope="transfer"), make_model()
    runs = [(0, 0, 3), (0, 0, 3), (0, 0, 4), (0, 1, 3), (1, 0, 3)]  # seed, phase, outer step
    for seed, *key in runs:
        estimate(make_objective(base, model, seed), "exemplars", *key)
    first, again, *others = recorded
    for name in ("batches", "step_inputs"):
        np.testing.assert_array_equal(first[name], again[name])
        assert all(np.any(first[name] != other[name]) for other in others)
    heads = [np.array(call["parameters"][-2])[:, :4] for call in recorded]
    np.testing.assert_array_equal(heads[0], heads[1])
    assert all(np.all(heads[0] != head) for head in heads[2:])


def test_every_inner_step_augments_anew(recorded):
    estimate(make_objective(settings(scope="transfer", steps=5)))
    seeds = recorded[-1]["step_inputs"].numpy()
    assert len(np.unique(seeds, axis=0)) == 5


@pytest.mark.parametrize("augment", [True, False])
def test_classifier_scope_augments_once_in_front_of_the_features(monkeypatch, augment):
    class Recorder:
        encoder = Encoder(tf.identity)

        def estimate(self, **arguments):
            self.exemplars = arguments["exemplars"]
            ones = tf.ones_like(self.exemplars)
            return MetaGradientResult(tf.constant(0.0), ones, tf.zeros(1), [])

    recorder = Recorder()
    monkeypatch.setattr(bilevel, "OnFeatures", lambda *arguments: recorder)
    result = estimate(make_objective(settings(augmentation=augment)))
    gradient, exemplars = result.exemplar_gradient.numpy(), data()[0]
    if not augment:
        np.testing.assert_array_equal(recorder.exemplars, exemplars)
        np.testing.assert_array_equal(gradient, 1)
        return
    # A crop repeats no pixel: those that it kept have the gradient, those it cut off have none.
    for image, seen, kept in zip(exemplars, recorder.exemplars.numpy(), gradient, strict=True):
        assert set(np.unique(kept)) <= {0.0, 1.0}
        black = np.isclose(seen, BLACK, atol=1e-6).all(axis=-1)
        assert kept[..., 0].sum() == np.sum(~black)
        np.testing.assert_allclose(
            np.sort(image[kept == 1]), np.sort(seen[~black].ravel()), atol=1e-5
        )
    assert np.any(gradient == 0)


# --- balanced order ------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [[5, 5, 5], [1, 7, 3], [4], [2, 0, 6]])
def test_balanced_order_holds_every_row_once_and_classes_evenly(counts):
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.repeat(np.arange(len(counts)), counts))
    order = balanced_order(labels, generator)
    np.testing.assert_array_equal(np.sort(order), np.arange(len(labels)))
    for end in range(1, len(labels) + 1):
        drawn = np.bincount(labels[order[:end]], minlength=len(counts))
        left = np.array(counts) - drawn
        # No class is two ahead of another that still has members.
        assert all(
            drawn[a] - drawn[b] <= 1 for a in range(len(counts)) for b in np.nonzero(left)[0]
        )


def test_batches_hold_classes_of_other_sizes_to_the_end():
    labels = np.repeat(np.arange(3), [12, 4, 4])
    batches = balanced_batches(labels, 5, 8, np.random.default_rng(0))
    assert np.array_equal(np.sort(batches[:4].ravel()), np.arange(20))
    for batch in labels[batches]:
        assert np.bincount(batch, minlength=3).tolist() == [3, 1, 1]


def test_batches_of_classes_of_one_size_are_stretches_of_the_balanced_order():
    labels = np.repeat(np.arange(3), 4)
    batches = balanced_batches(labels, 6, 2, np.random.default_rng(3))
    order = balanced_order(labels, np.random.default_rng(3))
    np.testing.assert_array_equal(batches.ravel(), order)


def test_balanced_order_is_random_in_classes_and_members():
    labels = np.repeat(np.arange(3), 4)
    orders = [balanced_order(labels, np.random.default_rng(seed)) for seed in range(60)]
    assert {int(order[0]) for order in orders} == set(range(12))
    first_class = collections.Counter(int(labels[order[0]]) for order in orders)
    assert min(first_class.values()) > 8
