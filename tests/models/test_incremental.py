import keras
import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.models.architecture import Architecture
from mnemonics_tf.models.classifiers import MASKED
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.models.layers import BatchNormalization
from mnemonics_tf.models.resnet import BACKBONES, Backbone


def make(num_old=0, num_new=3, classifier="linear", seed=0, perturbed=True) -> IncrementalModel:
    model = IncrementalModel(
        Architecture("resnet_cifar", 8, (8, 8, 1), classifier), num_old, num_new, seed
    )
    return perturb(model) if perturbed else model


def perturb(model: IncrementalModel, names=("gamma", "beta", "moving_mean", "bias")):
    """Moves variables off their round starting values."""
    random = np.random.default_rng(5)
    for variable in model.variables:
        if variable.name in names:
            variable.assign(variable.numpy() + 0.3 * random.normal(size=variable.shape))
    return model


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype(np.float32)


def check_equal(ours, expected, atol=1e-6):
    np.testing.assert_allclose(ours.features, expected.features, atol=atol)
    np.testing.assert_allclose(ours.logits, expected.logits, atol=atol)


def names_of(variables) -> set[str]:
    return {variable.name for variable in variables}


def test_every_variable_has_a_place_in_the_state():
    model = make(2, 3)
    state = model.state()
    assert len(state) == len(model.variables)
    for variable in model.variables:
        value = variable.numpy()
        expected = value[..., :5] if variable.path.startswith("classifier/") else value
        np.testing.assert_array_equal(state[variable.path], expected)
    assert {path: array.shape for path, array in state.items()} == model.shapes()


@pytest.mark.parametrize("transfer", [False, True])
def test_state_makes_an_equal_model_of_another(images, transfer):
    model, other = make(2, 3, "cosine"), make(2, 3, "cosine", seed=1)
    if transfer:
        for one in (model, other):
            one.enable_transfer()
        perturb(model, ("transfer_scale",))
    assert np.abs(other(images).logits - model(images).logits).max() > 0.01
    other.set_state(model.state())
    np.testing.assert_array_equal(other(images).logits, model(images).logits)


def test_growth_keeps_old_logits_and_adds_new(images):
    model = make(0, 3)
    before = model(images)
    old = model.classifier.seen_kernel()
    model.grow(2)
    after = model(images)
    assert model.num_classes == after.num_seen == 5
    assert np.all(after.logits[:, 5:] == MASKED)
    np.testing.assert_array_equal(model.classifier.seen_kernel()[:, :3], old)
    np.testing.assert_array_equal(after.features, before.features)
    np.testing.assert_allclose(after.logits[:, :3], before.logits[:, :3], atol=1e-6)
    model.grow(1)
    np.testing.assert_array_equal(model.classifier.seen_kernel()[:, :3], old)
    np.testing.assert_allclose(model(images).logits[:, :5], after.logits[:, :5], atol=1e-6)


def test_switch_to_weight_transfer_leaves_outputs(images):
    model = make(2, 3)
    before = model(images), model(images, training=True)
    state = model.state()
    model.set_state(state)  # training=True moved the statistics
    fresh = make(2, 3)
    fresh.enable_transfer()
    check_equal(fresh(images), before[0])
    check_equal(fresh(images, training=True), before[1])


def test_weight_transfer_trains_all_but_the_kernels():
    model = make(2, 3)
    assert names_of(model.trainable_variables) == {*("kernel", "gamma", "beta", "bias")}
    model.enable_transfer()
    assert names_of(model.trainable_variables) == {
        *("transfer_scale", "gamma", "beta", "kernel", "bias")
    }
    assert all(
        v.path == "classifier/kernel" for v in model.trainable_variables if v.name == "kernel"
    )
    assert len(model.trainable_variables) == 3 * len(list(model.transfer_layers())) + 2


def test_a_frozen_copy_is_equal_and_its_own(images):
    model = make(2, 3)
    model.enable_transfer()
    perturb(model, ("transfer_scale",))
    copy = model.frozen_copy()
    expected = model(images)
    check_equal(copy(images), expected, atol=0)
    assert copy.trainable_variables == []
    assert model.trainable_variables != []
    for variable in model.variables:
        variable.assign(variable + 1.0)
    check_equal(copy(images), expected, atol=0)


def test_scopes():
    model = make(2, 3)
    head = {"kernel", "bias"}
    assert names_of(model.scope_variables("classifier")) == head
    assert names_of(model.scope_variables("all")) == head | {"kernel", "gamma", "beta"}
    model.enable_transfer()
    transferred = head | {"transfer_scale", "gamma", "beta"}
    assert names_of(model.scope_variables("transfer")) == transferred
    assert names_of(model.scope_variables("all")) == transferred | {"kernel"}


def test_functional_call_puts_tensors_in_the_place_of_variables(images):
    model, other = make(2, 3), make(2, 3, seed=1)
    state = model.state()
    variables = model.scope_variables("all")
    # Variables of equal names follow in the same order.
    values = [tf.constant(v.numpy()) for v in other.scope_variables("all")]
    with tf.GradientTape() as tape:
        tape.watch(values)
        outputs = model.functional_call(variables, values, lambda: model(images))
        loss = tf.reduce_sum(outputs.logits**2)
    gradients = tape.gradient(loss, values)
    assert all(gradient is not None for gradient in gradients)
    for path, value in model.state().items():
        np.testing.assert_array_equal(value, state[path])
    # What is not replaced, the moving statistics, is the model's own.
    for ours, theirs in zip(model.transfer_layers(), other.transfer_layers(), strict=True):
        theirs.normalization.moving_mean.assign(ours.normalization.moving_mean.value)
    check_equal(outputs, other(images), atol=1e-5)


def test_exact_statistics_hold_within_the_context_only(images):
    model = make(2, 3)
    layers = [layer.normalization for layer in model.transfer_layers()]
    expected = model(images, training=True)
    with model.exact_batch_statistics():
        assert all(layer.exact for layer in layers)
        check_equal(model(images, training=True), expected, atol=1e-4)
    assert not any(layer.exact for layer in layers)


def test_statistics_of_a_model_inside_a_backbone_are_exact_too(monkeypatch):
    inner = keras.Sequential([keras.Input((4, 4, 1)), BatchNormalization(name="inside")])
    nested = [keras.Input((4, 4, 1)), inner, keras.layers.Flatten()]
    family = Backbone(lambda *arguments: keras.Sequential(nested), lambda depth: None)
    monkeypatch.setitem(BACKBONES, "nested", family)
    model = IncrementalModel(Architecture("nested", 0, (4, 4, 1), "linear"), 0, 2, seed=0)
    with model.exact_batch_statistics():
        assert inner.layers[0].exact


def test_a_class_starts_from_weights_that_depend_on_seed_and_label_only():
    direct = make(3, 2).classifier.seen_kernel()[:, 3:]
    grown = make(0, 3)
    grown.grow(2)
    np.testing.assert_array_equal(grown.classifier.seen_kernel()[:, 3:], direct)
    assert not np.array_equal(make(3, 2, seed=1).classifier.seen_kernel()[:, 3:], direct)
    assert not np.array_equal(make(5, 2).classifier.seen_kernel()[:, 5:], direct)


def test_growth_beyond_the_capacity_is_refused():
    model = IncrementalModel(Architecture("resnet_cifar", 8, (8, 8, 1), "linear"), 0, 60, 0, 64)
    with pytest.raises(ValueError, match="70 classes, and the classifier has room for 64"):
        model.grow(10)
    assert model.num_classes == 60


def test_a_state_with_old_and_new_weights_apart_is_read(images):
    """As earlier versions wrote them, and as phase 0 did, which has no old ones."""
    for num_old in (0, 2):
        model, other = make(num_old, 3), make(num_old, 3, seed=1)
        state = model.state()
        kernel = state.pop("classifier/kernel")
        state["classifier/new_kernel"] = kernel[:, num_old:]
        if num_old:
            state["classifier/old_kernel"] = kernel[:, :num_old]
        other.set_state(state)
        np.testing.assert_array_equal(other(images).logits, model(images).logits)


def test_one_model_goes_through_phases_as_new_ones_would(images):
    """Forth and back: what other numbers of classes left behind is gone."""
    model = make(0, 3, perturbed=False)
    first = model.state()
    model.grow(2)
    perturb(model)
    model.grow(4)
    model.set_classes(0, 3)
    model.set_state(first)
    np.testing.assert_array_equal(model(images).logits, make(0, 3, perturbed=False)(images).logits)
    model.grow(2)
    fresh = make(0, 3, perturbed=False)
    fresh.grow(2)
    for path, value in fresh.state().items():
        np.testing.assert_array_equal(model.state()[path], value, err_msg=path)


def test_names_of_a_family_do_not_depend_on_what_was_built_before(monkeypatch):
    """Arrays on disk are found by them, in processes that build more or less than the run did."""

    def build(image_shape, depth, seed):
        return keras.Sequential(
            [keras.Input(image_shape), keras.layers.Flatten(), keras.layers.Dense(3)]
        )

    monkeypatch.setitem(BACKBONES, "unnamed", Backbone(build, lambda depth: None))
    architecture = Architecture("unnamed", 8, (2, 2, 1), "linear")
    before, following = (keras.layers.Dense(1).name for _ in range(2))
    for _ in range(2):
        paths = [v.path for v in architecture.build_backbone(0).variables]
        assert paths == ["sequential/dense/kernel", "sequential/dense/bias"]
    number = int(following.rpartition("_")[2])
    assert keras.layers.Dense(1).name == f"dense_{number + 1}"
    assert before != following
