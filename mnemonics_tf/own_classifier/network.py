"""A Keras classifier of anybody's, as objectives ask for it: an encoder and a linear classifier.

network = make_network(model, None, pixels, examples, classes, InnerSettings(), seed=0)
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mnemonics_tf.bilevel.cost import images_at_once
from mnemonics_tf.bilevel.objectives import second_order
from mnemonics_tf.data.augmentation import Augmentation, ResizedCropMirror
from mnemonics_tf.data.pipeline import Normalization
from mnemonics_tf.errors import UserError
from mnemonics_tf.models.classifiers import first_bound
from mnemonics_tf.models.conversion import check_normalizations, right_in_second_order
from mnemonics_tf.models.layer_outputs import layer_bytes
from mnemonics_tf.models.own_backbone import seeded
from mnemonics_tf.randomness import derive_seed, numpy_generator
from mnemonics_tf.settings import InnerSettings, OuterSettings

#: layers that may follow the classifier: they map logits to probabilities, or change nothing
_AFTER_LOGITS = (keras.layers.Softmax, keras.layers.Activation, keras.layers.Identity)

#: makes an untrained model from a seed
Build = Callable[[int], keras.Model]

#: maps images, as the encoder takes them, to features `[n, d]`
Encode = Callable[[tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Pixels:
    """How normalised pixels, in which exemplars learn, become what a model takes.

    Attributes:
        normalization: of the pixels.
        preprocess: maps float pixels `[n, h, w, c]` from 0 to 255 to the model's input.
        augmentation: of the inner loop.
    """

    normalization: Normalization
    preprocess: Callable[[tf.Tensor], tf.Tensor]
    augmentation: Augmentation | ResizedCropMirror

    def to_input(self, normalized: tf.Tensor) -> tf.Tensor:
        """Returns what the model takes."""
        return self.preprocess(self.normalization.denormalize(normalized))

    def augmented(self, normalized: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns augmented normalised pixels, by an int32 seed `[2]`."""
        return self.augmentation(normalized, seed, self.normalization.black)


@dataclasses.dataclass(frozen=True)
class Head:
    """A linear classifier.

    Attributes:
        kernel: `[d, classes]`.
        bias: `[classes]`; zeros where the layer has none.
    """

    kernel: np.ndarray
    bias: np.ndarray

    @classmethod
    def zeros(cls, dimension: int, num_classes: int) -> "Head":
        """Returns a classifier of which only the shape counts."""
        return cls(
            np.zeros((dimension, num_classes), np.float32), np.zeros(num_classes, np.float32)
        )

    @classmethod
    def fresh(cls, shape: tuple[int, int], generator: np.random.Generator) -> "Head":
        """Returns a new classifier of `[d, classes]`, as the project's own models draw theirs."""
        bound = first_bound(shape[0])
        kernel = generator.uniform(-bound, bound, shape).astype(np.float32)
        return cls(kernel, np.zeros(shape[1], np.float32))


def make_network(
    model: keras.Model,
    encoder: keras.Model | Encode | None,
    pixels: Pixels,
    examples: tf.Tensor,
    classes: np.ndarray,
    settings: InnerSettings,
    seed: int,
) -> "KerasNetwork":
    """Returns a model as objectives ask for it, once it is found to work on some images.

    Args:
        model: a classifier.
        encoder: maps the model's input to features; None: the model up to its last Dense layer.
        pixels: what comes before.
        examples: some normalised images.
        classes: the labels that exemplars have, ascending.
        settings: of the base level.
        seed: decides the weights of new classifiers.

    Raises:
        UserError: if the model can't be cut, its features are of another shape or have no gradient
            by the pixels, or layers that are trained have no second one.
    """
    head, inputs = None, _inputs(pixels, examples)
    if encoder is None:
        encoder, head = _cut(model, inputs)
    if settings.inner_scope == "all" and not isinstance(encoder, keras.Model):
        raise UserError(
            "inner_scope='all' trains the encoder, which must be a keras.Model then, got a "
            f"{type(encoder).__name__}; or leave inner_scope at 'classifier'"
        )
    if settings.inner_scope == "all":
        encoder = right_in_second_order(encoder)
    num_features = _num_features(functools.partial(_features, encoder, pixels), examples)
    if settings.inner_start == "model":
        head = _columns(model, head, classes)
    else:
        head = Head.zeros(num_features, len(classes))
    return KerasNetwork(encoder, head, pixels, settings, seed)


def make_untrained_network(
    build: Build,
    pixels: Pixels,
    examples: tf.Tensor,
    num_classes: int,
    settings: InnerSettings,
    seed: int,
) -> "KerasNetwork":
    """Returns models that are untrained at every start, as objectives ask for them.

    Args:
        build: makes one from a seed; what Keras draws without one follows from `seed` all the
            same.
        pixels: what comes before.
        examples: some normalised images.
        num_classes: how many classes exemplars have.
        settings: of the base level, which trains all weights.
        seed: decides all weights.

    Raises:
        UserError: as for `make_network`.
    """
    inputs = _inputs(pixels, examples)

    def untrained(*key: str | int) -> keras.Model:
        wanted = derive_seed(seed, *key, "untrained")
        with seeded(wanted):  # a layer may draw its weights at its first call
            return _cut(build(wanted), inputs)[0]

    encoder = right_in_second_order(untrained())
    num_features = _num_features(functools.partial(_features, encoder, pixels), examples)
    shapes = [tuple(variable.shape) for variable in encoder.trainable_variables]

    def new_weights(*key: str | int) -> list[tf.Tensor]:
        fresh = untrained(*key).trainable_variables
        if [tuple(variable.shape) for variable in fresh] != shapes:
            raise UserError("build= makes models of other shapes with other seeds")
        return [tf.convert_to_tensor(variable.value) for variable in fresh]

    head = Head.zeros(num_features, num_classes)
    return KerasNetwork(encoder, head, pixels, settings, seed, new_weights)


def _inputs(pixels: Pixels, examples: tf.Tensor) -> tf.Tensor:
    """Returns what the model takes, once that is found to be numbers."""
    inputs = pixels.to_input(examples)
    if inputs is None:
        raise UserError("preprocess= returns None, expected what the model takes")
    is_float = tf.is_tensor(inputs) and inputs.dtype.is_floating
    if is_float and not np.isfinite(inputs.numpy()).all():
        raise UserError(
            "preprocess= makes infinite numbers, or none at all, of pixels from 0 to 255: look for "
            "what it divides by"
        )
    return inputs


def _cut(model: keras.Model, inputs: tf.Tensor) -> tuple[keras.Model, Head]:
    """Returns what `split_classifier` does, of a model that was built by some inputs."""
    if not isinstance(model, keras.Model):
        raise UserError(f"got a {type(model).__name__} as a model, expected a keras.Model")
    try:
        model(inputs)  # builds a Sequential model that has seen no input yet
    except ValueError as error:
        raise UserError(
            f"model {model.name} can't take images of shape {tuple(inputs.shape)}, which is "
            f"what preprocess= makes of them: {_told(error)}"
        ) from error
    return split_classifier(model)


def _told(error: Exception) -> str:
    """Returns what Keras says of an input, on one line, without the arguments and the colours."""
    text = re.sub(r"\x1b\[\d*m", "", str(error)).partition("Arguments received by")[0]
    said = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(said[1:] if len(said) > 1 and said[0].startswith("Exception enc") else said)


def _columns(model: keras.Model, head: Head | None, classes: np.ndarray) -> Head:
    """Returns the classifier's columns of the exemplars' classes."""
    if head is None:
        raise UserError(
            "inner_start='model' begins with the model's own classifier, of which encoder= knows "
            "nothing: leave out one of the two"
        )
    width = head.kernel.shape[1]
    if classes[0] < 0 or classes[-1] >= width:
        raise UserError(
            f"labels go from {classes[0]} to {classes[-1]}, and the classifier of model "
            f"{model.name} has {width} outputs: with inner_start='model' a label is the number of "
            "an output"
        )
    return Head(head.kernel[:, classes], head.bias[classes])


def _num_features(encode: Encode, examples: tf.Tensor) -> int:
    """Returns d, once features are found to have the right shape and a gradient."""
    with tf.GradientTape() as tape:
        tape.watch(examples)
        features = encode(examples)
    if features.shape.rank != 2 or features.shape[0] != len(examples):
        raise UserError(
            f"the features of {len(examples)} images have the shape {tuple(features.shape)}, "
            f"expected ({len(examples)}, d): preprocess= must keep the number of images, and "
            "encoder= pool or flatten them"
        )
    if tape.gradient(features, examples) is None:
        raise UserError(
            "the features have no gradient by the pixels: preprocess= and encoder= must be made of "
            "TensorFlow or keras.ops functions of floats (no NumPy, no rounding, no integers)"
        )
    return int(features.shape[1])


def split_classifier(model: keras.Model) -> tuple[keras.Model, Head]:
    """Returns the part of a model before its last Dense layer, and that layer's weights.

    A softmax or sigmoid that follows the logits is left out.

    Args:
        model: functional or Sequential, built, with one output.

    Raises:
        UserError: if the model is no such one, or does not end with a Dense layer.
    """
    way_out = "pass encoder=, which maps the model's input to features [n, d]"
    outputs = getattr(model, "outputs", None)  # a subclassed model has none, for it has no graph
    if not outputs or len(outputs) != 1:
        raise UserError(
            f"model {model.name} ({type(model).__name__}) can't be cut before its classifier, as a "
            f"functional or Sequential model with one output can: {way_out}"
        )
    layer, feature = _origin(outputs[0])
    while isinstance(layer, _AFTER_LOGITS) and feature is not None:
        layer, feature = _origin(feature)
    if not isinstance(layer, keras.layers.Dense) or feature is None:
        raise UserError(
            f"model {model.name} ends with {layer.name} ({type(layer).__name__}), expected a Dense "
            f"layer, perhaps with a softmax after it: {way_out}"
        )
    if len(feature.shape) != 2:
        raise UserError(
            f"the classifier {layer.name} of model {model.name} gets features of shape "
            f"{feature.shape}, expected (None, d): {way_out}"
        )
    kernel = keras.ops.convert_to_numpy(layer.kernel).astype(np.float32)
    bias = np.zeros(kernel.shape[1], np.float32)
    if layer.use_bias:
        bias = keras.ops.convert_to_numpy(layer.bias).astype(np.float32)
    return keras.Model(model.inputs, feature), Head(kernel, bias)


def _origin(tensor: keras.KerasTensor) -> tuple[keras.layers.Layer, keras.KerasTensor | None]:
    """Returns the layer that made a tensor, and its one input; None where it is no one tensor."""
    history = tensor._keras_history
    inputs = history.operation._inbound_nodes[history.node_index].input_tensors
    return history.operation, inputs[0] if len(inputs) == 1 else None


def _features(encoder: keras.Model | Encode, pixels: Pixels, images: tf.Tensor) -> tf.Tensor:
    """Returns features `[n, d]` of normalised images, each image by itself."""
    inputs = pixels.to_input(images)
    options = {"training": False} if isinstance(encoder, keras.Model) else {}
    features = encoder(inputs, **options)
    if features is None or tf.nest.is_nested(features):
        raise UserError(
            f"encoder= returns a {type(features).__name__}, expected one tensor of features [n, d]"
        )
    return tf.cast(features, tf.float32)


class KerasNetwork:
    """A `Network` around a Keras model, which is read and never changed.

    Batch normalisation uses its moving statistics, and dropout drops nothing: what the encoder
    makes of an image depends on that image alone.

    Args:
        encoder: the model without its classifier; a plain function will do where the inner loop
            trains the classifier alone.
        head: the model's classifier, a column for each class that exemplars have; only its shape
            counts where every outer step has a fresh one.
        pixels: what comes before the encoder.
        settings: of the base level.
        seed: decides the weights of fresh classifiers.
        new_weights: the encoder's weights at the start that a key names; None: those it has.

    Attributes:
        on_features: whether only the classifier is trained.
        bytes_per_image: of all outputs of the encoder's layers; 0: it does not tell.
        images_at_once: how many images pass the encoder at a time.
        in_float16: whether layers of the encoder compute in it; not known of a plain function.
    """

    def __init__(
        self,
        encoder: keras.Model | Encode,
        head: Head,
        pixels: Pixels,
        settings: InnerSettings,
        seed: int,
        new_weights: Callable[..., list[tf.Tensor]] | None = None,
    ):
        self.on_features = settings.inner_scope == "classifier"
        self.bytes_per_image = layer_bytes(encoder) if isinstance(encoder, keras.Model) else 0
        self.images_at_once = images_at_once(self.bytes_per_image)
        layers = encoder._flatten_layers() if isinstance(encoder, keras.Model) else []
        # A model's own type of numbers is the process's, whatever its layers have.
        kinds = {one.compute_dtype for one in layers if not isinstance(one, keras.Model)}
        self.in_float16 = "float16" in kinds
        self._encoder: Any = encoder  # a keras.Model where its weights are trained
        self._head = head
        self._pixels = pixels
        self._fresh_head = settings.inner_start == "fresh_head"
        self._seed = seed
        self._new_weights = new_weights or self._own_weights

    def start(self, *key: str | int) -> list[tf.Tensor]:
        """Returns theta_0: the encoder's weights, if they are trained, kernel and bias."""
        head = self._head
        if self._fresh_head:
            generator = numpy_generator(self._seed, *key, "head")
            head = Head.fresh(head.kernel.shape, generator)
        weights = [] if self.on_features else self._new_weights(*key)
        values = [tf.cast(value, tf.float32) for value in weights]
        return [*values, tf.constant(head.kernel), tf.constant(head.bias)]

    def _own_weights(self, *key: str | int) -> list[tf.Tensor]:
        del key  # the model's own at every start
        return [tf.convert_to_tensor(v.value) for v in self._encoder.trainable_variables]

    def augmented(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns images as the inner loop sees them."""
        return self._pixels.augmented(images, seed)

    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """Returns features `[n, d]` of normalised images."""
        return _features(self._encoder, self._pixels, images)

    def inner_logits(
        self, parameters: list[tf.Tensor], images: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Returns the logits of augmented images, or of features where only those are needed."""
        if self.on_features:
            return self._logits(parameters, images)
        return self._logits(parameters, self._encode_by(parameters, self.augmented(images, seed)))

    def outer_logits(self, parameters: list[tf.Tensor], outer: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns the logits of an outer batch."""
        if "feature" in outer:
            return self._logits(parameters, outer["feature"])
        return self._logits(parameters, self._encode_by(parameters, outer["image"]))

    def _encode_by(self, parameters: list[tf.Tensor], images: tf.Tensor) -> tf.Tensor:
        variables = self._encoder.trainable_variables
        values = [
            tf.cast(value, variable.dtype)
            for value, variable in zip(parameters[:-2], variables, strict=True)
        ]
        others = [variable.value for variable in self._encoder.non_trainable_variables]
        inputs = self._pixels.to_input(images)
        features, _ = self._encoder.stateless_call(values, others, inputs, training=False)
        return tf.cast(features, tf.float32)

    def check_second_order(self, inner: InnerSettings, outer: OuterSettings) -> None:
        """Refuses layers through which the meta-gradient would be wrong.

        Args:
            inner: the base level.
            outer: the meta level.

        Raises:
            UserError: names them, and what may take their place.
        """
        if second_order(inner, outer):
            way = "; or pass meta_gradient='first_order'"
            built = self._new_weights != self._own_weights
            trained = "build=" if built else "inner_scope='all'"
            way += "" if built else ", or leave inner_scope at 'classifier'"
            check_normalizations(self._encoder, f"{trained} trains model {self._encoder.name}", way)

    @staticmethod
    def _logits(parameters: list[tf.Tensor], features: tf.Tensor) -> tf.Tensor:
        *_, kernel, bias = parameters
        return features @ kernel + bias
