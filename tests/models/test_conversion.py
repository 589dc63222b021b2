import keras
import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.errors import UserError
from mnemonics_tf.models.conversion import check_normalizations, convert, right_in_second_order
from mnemonics_tf.models.converted_layers import FromNormalized, LayerNormalization, ScaledLayer
from mnemonics_tf.models.layers import BatchNormalization
from tests.models.small_models import SHAPE, mixed, plain

layers = keras.layers


class Block(layers.Layer):
    """A layer of the user's own around another."""

    def __init__(self, norm, **options):
        super().__init__(**options)
        self.norm = norm

    def call(self, inputs):
        return self.norm(inputs)

    def get_config(self):
        return super().get_config() | {"norm": self.norm}

    @classmethod
    def from_config(cls, config):
        norm = config.pop("norm")
        return cls(type(norm).from_config(norm.get_config()), **config)


@pytest.fixture(scope="module")
def source() -> keras.Model:
    return mixed()


@pytest.fixture(scope="module")
def converted(source):
    return convert(source, SHAPE, None, "backbone")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(6, *SHAPE)).astype(np.float32)


def test_outputs_stay(source, converted, images):
    before, after = source(images).numpy(), converted.model(images).numpy()
    assert np.abs(before).max() > 0.1
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert converted.kept == ()


def test_shared_layers_and_nested_models_are_converted_once(converted):
    scaled = [layer for layer in converted.model.layers if isinstance(layer, ScaledLayer)]
    assert sorted(layer.name for layer in scaled) == [
        *("conv2d_1", "dense_1", "depthwise_conv2d_1", "grouped", "mixer"),
    ]
    assert not any(isinstance(layer, keras.Model) for layer in converted.model.layers)
    shapes = {layer.name: tuple(layer.transfer_scale.shape) for layer in scaled}
    assert shapes == {
        "conv2d_1": (1, 1, 3, 4),  # the paper's: a number for each pair of channels
        "grouped": (1, 1, 2, 6),
        "mixer": (1, 1, 1, 4),  # 1 x 1, depthwise, dense: a number for each output channel
        "depthwise_conv2d_1": (1, 1, 4, 1),
        "dense_1": (1, 5),
    }


def test_normalisation_keeps_what_it_is(converted):
    found = {
        (layer.epsilon, layer.momentum, layer.axis, layer.gamma is None)
        for layer in converted.model.layers
        if isinstance(layer, BatchNormalization)
    }
    assert found == {(1e-2, 0.6, -1, False), (1e-3, 0.99, 1, True)}


@pytest.mark.parametrize("exact", [False, True])
def test_training_normalises_as_keras_does(exact, images):
    source = keras.Sequential([keras.Input(SHAPE), layers.BatchNormalization(axis=2, epsilon=0.1),
                               layers.BatchNormalization(momentum=0.7)])  # fmt: skip
    model = convert(source, SHAPE, None, "backbone").model
    for layer in model.layers[1:]:
        layer.exact = exact
    expected, found = source(images, training=True), model(images, training=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for mine, theirs in zip(model.layers[1:], source.layers, strict=True):
        np.testing.assert_allclose(mine.moving_mean.numpy(), theirs.moving_mean.numpy(), atol=1e-6)
        count = images.size / mine.moving_mean.shape[0]
        learned = theirs.moving_variance.numpy() - theirs.momentum  # it began at 1
        unbiased = theirs.momentum + learned * count / (count - 1)
        np.testing.assert_allclose(mine.moving_variance.numpy(), unbiased, atol=1e-5)


def test_frozen_layers_stay_frozen(converted, images):
    model = converted.model
    (frozen,) = (layer for layer in model.layers if layer.name == "dense_1")
    assert frozen.trainable_variables == []
    frozen.set_transfer(True)
    assert frozen.trainable_variables == []
    frozen.set_transfer(False)
    normalization = BatchNormalization()
    normalization.trainable = False
    expected = normalization(images, training=False)
    np.testing.assert_array_equal(normalization(images, training=True), expected)
    assert not normalization.moving_mean.numpy().any()


def test_a_shift_where_there_is_none():
    images = keras.Input(SHAPE)
    x = layers.BatchNormalization()(layers.Conv2D(3, 1, use_bias=False, name="shifted")(images))
    x = layers.Conv2D(3, 1, use_bias=False, name="alone")(x)
    x = layers.Conv2D(3, 1, name="biased")(layers.BatchNormalization(center=False)(x))
    model = convert(keras.Model(images, layers.Flatten()(x)), SHAPE, None, "backbone").model
    shifts = {
        layer.name: getattr(layer.shift(), "name", None)
        for layer in model.layers
        if isinstance(layer, ScaledLayer)
    }
    assert shifts == {"shifted": None, "alone": "transfer_shift", "biased": "bias"}


def test_names_and_description_follow_from_the_graph_alone(converted):
    again = convert(mixed(), SHAPE, None, "backbone")
    assert again.description == converted.description
    paths = [variable.path for variable in again.model.variables]
    assert paths == [variable.path for variable in converted.model.variables]
    other = convert(plain(), SHAPE, None, "backbone").description
    assert other != convert(plain(5), SHAPE, None, "backbone").description


def test_what_can_not_be_frozen_is_named(images):
    class Square(layers.Layer):
        def build(self, shape):
            self.factor = self.add_weight(shape=(), initializer="ones", name="factor")

        def call(self, x):
            return self.factor * tf.square(x)

    source = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.SeparableConv2D(2, 3, name="apart", depthwise_regularizer="l2"),
            Square(name="squared"),
            layers.Lambda(lambda x: x + 1),
            layers.Flatten(),
        ]
    )
    converted = convert(source, SHAPE, None, "backbone")
    assert converted.kept == ("apart (SeparableConv2D)", "squared (Square)")
    assert converted.not_used == ("apart (depthwise_regularizer)",)
    np.testing.assert_allclose(converted.model(images), source(images), atol=1e-5)


def test_a_layer_without_configuration():
    class Closed(layers.Layer):
        def __init__(self, function):
            super().__init__(name="closed")
            self.weight, self.function = self.add_weight(shape=()), function

        def call(self, x):
            return self.function(x) * self.weight

        def get_config(self):
            raise NotImplementedError

    parts = layers.LayerNormalization(), Closed(tf.abs), layers.Flatten()
    source = keras.Sequential([keras.Input(SHAPE), *parts], name="mine")
    message = "the layer closed .Closed. can't be made again .* give its class"
    with pytest.raises(UserError, match=f"--backbone: {message}"):
        convert(source, SHAPE, None, "backbone")
    with pytest.raises(UserError, match=f"model mine: {message}"):
        right_in_second_order(source)


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-1, 1)])
def test_pixels_of_a_range(low, high, images):
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    found = FromNormalized(mean, std, low, high)(images)
    shares = images * np.array(std) + np.array(mean)
    np.testing.assert_allclose(found, low + (high - low) * shares, atol=1e-3 if high > 1 else 1e-5)


@pytest.mark.parametrize("layer", [
    layers.LayerNormalization(axis=(1, 2)),
    layers.LayerNormalization(),
    layers.GroupNormalization(2),
])  # fmt: skip
def test_normalisation_of_one_image_is_right_in_second_order(layer, double_precision):
    """A gradient's slope along a direction against central differences; Keras' own layers fail.

    The direction has a mean: what Keras' layers forget is multiplied by it.
    """
    random = np.random.default_rng(3)
    source = keras.Sequential([keras.Input((3, 3, 4), dtype="float64"), type(layer).from_config(
        {**layer.get_config(), "dtype": "float64"})])  # fmt: skip
    model = convert(source, (3, 3, 4), None, "backbone").model
    x, along, direction, target = (tf.constant(random.normal(size=(2, 3, 3, 4))) for _ in range(4))

    def slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(target * tf.square(model(x)))
        return tf.reduce_sum(tape.gradient(loss, x) * along)

    with tf.GradientTape() as tape:
        tape.watch(x)
        value = slope(x)
    found = tf.reduce_sum(tape.gradient(value, x) * direction)
    step = 1e-5
    expected = (slope(x + step * direction) - slope(x - step * direction)) / (2 * step)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(model(x), source(x), atol=1e-10)


def test_layers_wrong_in_second_order_are_replaced_and_nothing_else(images):
    inputs = keras.Input(SHAPE)
    inner = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(4, 3, padding="same"),
                              layers.GroupNormalization(2)])  # fmt: skip
    standard, moved = layers.Normalization(), layers.Lambda(lambda x: x + 1)
    outputs = layers.Flatten()(layers.LayerNormalization()(inner(Block(standard)(moved(inputs)))))
    source = keras.Model(inputs, outputs)
    for variable in source.variables:
        variable.assign(variable + 0.1)
    standard.adapt(3 * images + 2)
    exact = right_in_second_order(source)
    kinds = [type(layer) for layer in exact._flatten_layers(include_self=False, recursive=True)]
    assert layers.LayerNormalization not in kinds
    assert layers.GroupNormalization not in kinds
    np.testing.assert_allclose(exact(images), source(images), atol=1e-5)
    converted = convert(source, SHAPE, None, "backbone").model
    np.testing.assert_allclose(converted(images), source(images), atol=1e-4)
    assert [v.shape for v in exact.trainable_variables] == [
        v.shape for v in source.trainable_variables
    ]
    assert not set(map(id, exact.variables)) & set(map(id, source.variables))
    plain_model = keras.Sequential([keras.Input(SHAPE), layers.Flatten()])
    assert right_in_second_order(plain_model) is plain_model

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.normalization = layers.LayerNormalization()

        def call(self, inputs):
            return self.normalization(inputs)

    with pytest.raises(UserError, match="holds LayerNormalization, whose gradient can't be"):
        right_in_second_order(Subclassed())


def test_layers_whose_place_no_others_take_are_named():
    class Derived(layers.LayerNormalization):
        pass

    def exact(*parts):
        return right_in_second_order(keras.Sequential([keras.Input(SHAPE), *parts]))

    model = exact(
        Block(layers.GroupNormalization(3, name="inside")),
        Derived(name="derived"),
        layers.LayerNormalization(name="plain"),
    )
    named = r"^it: .*: inside .GroupNormalization., derived .Derived.; make .*; or so$"
    with pytest.raises(UserError, match=named):
        check_normalizations(model, "it", "; or so")
    right = Block(LayerNormalization()), layers.LayerNormalization(rms_scaling=True)
    check_normalizations(exact(*right), "it")
    check_normalizations(exact(layers.BatchNormalization(), Block(right[1])), "it")
