"""What a served model answers: its signatures, as plain graphs of TensorFlow."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.decoding import MAX_PIXELS, decode_plain
from mnemonics_tf.data.pipeline import Normalization
from mnemonics_tf.models.incremental import IncrementalModel

#: classes that an answer ranks, where there are so many
TOP = 5

#: channels to which TensorFlow decodes no file, not even a PNG that has as many
_UNDECODABLE = 2


@dataclasses.dataclass(frozen=True)
class ExportedClasses:
    """The classes that a model knows, by label.

    Attributes:
        original_ids: the data set's own class ids.
        names: what the classes are called.
    """

    original_ids: tuple[int, ...]
    names: tuple[str, ...]


class Signatures:
    """The signatures of one model.

    Args:
        model: whose variables are used, its scales folded; calls no `tf.function`.
        classes: the K classes, by label.
        normalization: of the images; it becomes part of the graph.
        class_means: `[K, d]`, L2-normalised, by label.
        fit_image: brings a decoded image, uint8 `[any, any, c]`, to the model's size; None resizes
            it (bilinear, antialiased).

    Attributes:
        module: tracks the variables in use: what is saved.
        functions: concrete functions by the name of the signature.

    Raises:
        ValueError: if the model runs a graph traced before, or the numbers of classes differ.
    """

    def __init__(
        self,
        model: IncrementalModel,
        classes: ExportedClasses,
        normalization: Normalization,
        class_means: np.ndarray,
        fit_image: Callable[[tf.Tensor], tf.Tensor] | None = None,
    ):
        image_shape = model.architecture.image_shape
        self._model = model
        self._classes = classes
        self._normalization = normalization
        self._image_shape = image_shape
        self._fit_image = fit_image or _resizing(image_shape)
        images = tf.TensorSpec([None, *image_shape], tf.uint8, name="images")
        image_bytes = tf.TensorSpec([None], tf.string, name="image_bytes")
        # Only bare TensorFlow variables are tracked: Keras objects in the object graph make
        # TensorFlow Serving's loader miss variables, although `tf.saved_model.load` finds them.
        self.module = tf.Module(name="exported_phase")
        self.module.class_means = tf.Variable(class_means, dtype=tf.float32, trainable=False)
        self._outputs = _function(self._run, images)
        functions: dict[Callable[[tf.Tensor], dict[str, tf.Tensor]], tf.TensorSpec] = {
            self.serving_default: images,
            self.scores: images,
            self.features: images,
            self.nme: images,
        }
        if image_shape[-1] != _UNDECODABLE:
            functions[self.serving_bytes] = image_bytes
        concrete = self._outputs.get_concrete_function()
        _check_traced(concrete, model, classes, class_means)
        positions = {id(handle): i for i, handle in enumerate(concrete.captured_inputs)}
        used = sorted(concrete.graph.variables, key=lambda v: positions[id(v.handle)])
        self.module.weights = used
        self.functions = {
            function.__name__: _function(function, spec).get_concrete_function()
            for function, spec in functions.items()
        }

    def _run(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns features and logits, float32."""
        count = tf.shape(images)[0]
        normalized = self._normalization.normalize(images)
        # oneDNN's convolutions fail on no image at all: a grey one then takes its place. Joined,
        # not padded: other formats can't pad by a number that is known at run time only.
        missing = tf.cast(count == 0, tf.int32)
        grey = tf.zeros([missing, *self._image_shape], normalized.dtype)
        outputs = self._model(tf.concat([normalized, grey], axis=0))
        features, logits = outputs.features[:count], outputs.logits[:count]
        return tf.cast(features, tf.float32), tf.cast(logits, tf.float32)

    def _ids(self, labels: tf.Tensor) -> tf.Tensor:
        return tf.gather(tf.constant(self._classes.original_ids, tf.int64), labels)

    def _named(self, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        names = tf.gather(tf.constant(self._classes.names), labels)
        return {"class_id": self._ids(labels), "class_name": names}

    def serving_default(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns scores, the class and the likeliest few classes in their order."""
        _, logits = self._outputs(images)
        probabilities = tf.nn.softmax(logits)
        # By logits: far apart, they have probabilities of 0 alike.
        _, labels = tf.math.top_k(logits, min(TOP, len(self._classes.names)))
        ranked = {f"top_{name}": value for name, value in self._named(labels).items()}
        return {
            "logits": logits,
            "probabilities": probabilities,
            **self._named(tf.argmax(logits, axis=1)),
            **ranked,
            "top_probability": tf.gather(probabilities, labels, batch_dims=1),
        }

    def serving_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the same for files."""

        def decode(contents):
            with tf.control_dependencies([_check_size(contents)]):
                contents = tf.identity(contents)
            image = self._fit_image(_decode(contents, self._image_shape[-1]))
            return tf.ensure_shape(image, self._image_shape)

        return self.serving_default(tf.map_fn(decode, image_bytes, fn_output_signature=tf.uint8))

    def scores(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns numbers alone, which every format of models has."""
        _, logits = self._outputs(images)
        return {
            "logits": logits,
            "probabilities": tf.nn.softmax(logits),
            "class_id": self._ids(tf.argmax(logits, axis=1)),
        }

    def features(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns what both heads see."""
        return {"features": self._outputs(images)[0]}

    def nme(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the cosines with the class means, and the nearest one's class."""
        directions = tf.math.l2_normalize(self._outputs(images)[0], axis=1)
        similarity = tf.matmul(directions, self.module.class_means, transpose_b=True)
        return {"similarity": similarity, **self._named(tf.argmax(similarity, axis=1))}


def _check_size(contents: tf.Tensor) -> tf.Operation:
    """Fails unless `contents` is a JPEG or PNG file of at most `MAX_PIXELS`; decodes no pixel.

    A few bytes can stand for gigabytes of pixels: the size is read from the header (PNG, 3rd
    edition, 11.2.1: width and height are the 32-bit numbers at bytes 16 and 20).
    """

    def size_of_png():
        header = tf.io.decode_raw(tf.strings.substr(contents, 16, 8), tf.uint8)
        numbers = tf.reshape(tf.cast(header, tf.int64), [2, 4])
        return tf.reduce_sum(numbers * tf.constant([2**24, 2**16, 2**8, 1], tf.int64), axis=1)

    def size_of_jpeg():
        return tf.cast(tf.io.extract_jpeg_shape(contents)[:2], tf.int64)

    def is_no_image():
        message = tf.debugging.Assert(False, ["image_bytes: expected a JPEG or PNG file"])
        with tf.control_dependencies([message]):
            return tf.zeros([2], tf.int64)

    starts = {"png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "jpeg": b"\xff\xd8\xff"}
    is_kind = {
        kind: tf.strings.substr(contents, 0, len(start)) == start for kind, start in starts.items()
    }
    size = tf.case([(is_kind["png"], size_of_png), (is_kind["jpeg"], size_of_jpeg)], is_no_image)
    fits = tf.reduce_all(size > 0) & (size[0] <= MAX_PIXELS // tf.maximum(size[1], 1))
    return tf.debugging.Assert(
        fits, [f"image_bytes: expected images of 1 to {MAX_PIXELS} pixels, found one of", size]
    )


def _decode(contents: tf.Tensor, channels: int) -> tf.Tensor:
    """Returns an image file as uint8 `[h, w, channels]`; a JPEG exactly as data sources do.

    A JPEG has no opacity: where models want a fourth channel it is opaque, as a PNG without one is.
    """

    def decode_jpeg():
        image = decode_plain(contents, min(channels, 3))
        return tf.pad(image, [[0, 0], [0, 0], [0, 1]], constant_values=255) if opacity else image

    def decode_other():
        image = tf.io.decode_image(contents, channels=channels, expand_animations=False)
        return tf.ensure_shape(image, [None, None, channels])

    opacity = channels == 4
    return tf.cond(tf.io.is_jpeg(contents), decode_jpeg, decode_other)


def _function(function: Callable, spec: tf.TensorSpec) -> Any:
    """Returns a `tf.function` of one argument, for which no source code is rewritten."""
    return tf.function(function, input_signature=[spec], autograph=False)


def _resizing(image_shape: tuple[int, int, int]) -> Callable[[tf.Tensor], tf.Tensor]:
    def resize(image):
        resized = tf.image.resize(image, image_shape[:2], antialias=True)
        return tf.saturate_cast(tf.round(resized), tf.uint8)

    return resize


def _check_traced(
    concrete: Any,
    model: IncrementalModel,
    classes: ExportedClasses,
    class_means: np.ndarray,
) -> None:
    unfolded = {id(v.value) for layer in model.transfer_layers() for v in layer.variables}
    if any(id(variable) in unfolded for variable in concrete.graph.variables):
        raise ValueError("the model runs a graph traced before the export")
    features, logits = concrete.structured_outputs
    num_classes = len(classes.original_ids)
    if logits.shape[1] != num_classes or len(classes.names) != num_classes:
        raise ValueError(
            f"{logits.shape[1]} logits, {num_classes} original ids and {len(classes.names)} names: "
            "one of each is expected for every class"
        )
    if class_means.shape != (num_classes, features.shape[1]):
        raise ValueError(
            f"class_means of shape {class_means.shape}, expected {(num_classes, features.shape[1])}"
        )
