"""A SavedModel for every phase, complete for TensorFlow Serving and free of this project's code."""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.decoding import MAX_PIXELS, decode_plain
from mnemonics_tf.data.pipeline import Normalization
from mnemonics_tf.errors import UserError
from mnemonics_tf.models.incremental import IncrementalModel, Outputs
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.run.files import (
    check_held,
    flush_to_disk,
    user_error_on_disk_trouble,
    write_json,
    write_text,
)
from mnemonics_tf.serving.assets import write_models_config, write_warmup_requests
from mnemonics_tf.serving.loading import EXTRA, damage, plain_path, write_digests

# TensorFlow Serving looks only at directories whose name is a number.
_TEMPORARY_PREFIX = ".tmp-"
_ASIDE_PREFIX = ".damaged-"

#: what ends a line for some reader or other, and what a terminal would act on
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclasses.dataclass(frozen=True)
class ExportedClasses:
    """The classes that a model knows, by label.

    Attributes:
        original_ids: the data set's own class ids.
        names: what the classes are called.
    """

    original_ids: tuple[int, ...]
    names: tuple[str, ...]


def export_name(dataset: str) -> str:
    """Returns the name under which models of a data set are served: its own, as a file name."""
    return re.sub(r"[^\w.-]", "_", dataset)


def export_phase(
    directory: pathlib.Path,
    version: int,
    model: IncrementalModel,
    predict: Callable[[tf.Tensor], Outputs],
    classes: ExportedClasses,
    normalization: Normalization,
    class_means: np.ndarray | None,
    metadata: Mapping[str, Any],
    warmup_images: np.ndarray,
    fit_image: Callable[[tf.Tensor], tf.Tensor] | None = None,
) -> pathlib.Path:
    """Writes `directory/version` and, beside `directory`, models.config.

    Signatures (n is any batch size, also 0; K the number of classes, d the features' dimension):

    - `serving_default`: `images` uint8 `[n, h, w, c]` -> `logits` `[n, K]`, `probabilities`
      `[n, K]`, `class_id` int64 `[n]` (original ids), `class_name` string `[n]`
    - `serving_bytes`: `image_bytes` string `[n]`, each a JPEG or PNG file of at most `MAX_PIXELS`
      -> the same
    - `features`: `images` -> `features` `[n, d]`
    - `nme` (where class means are given): `images` -> `similarity` `[n, K]` (cosine of features and
      class means), `class_id`, `class_name`: nearest mean of exemplars

    A version appears at once or not at all, and one that is whole is never overwritten. One that an
    interrupted run left complete is kept if it holds this very model; call this once the phase's
    checkpoint is safe, so that a resumed run comes back with the same weights. One that is damaged
    is set aside as `.damaged-VERSION`, which no server looks at, and written again.

    Args:
        directory: RUN/export/NAME; NAME is the name under which the model is served.
        version: number of phases learned, counted from 1.
        model: whose convolutions are exported, with all scales folded into plain kernels.
        predict: a function from normalised images to `model`'s outputs, with whatever the method
            adds to them; it may call no `tf.function`, whose cached graph would outlive this call.
        classes: the K classes, by label.
        normalization: of the images; it becomes part of the exported graph.
        class_means: `[K, d]`, L2-normalised, by label; None leaves out the signature `nme`.
        metadata: goes into assets.extra/metadata.json beside the classes, e.g. metrics and the
            protocol's fingerprint; anything that JSON can hold.
        warmup_images: uint8 `[m, h, w, c]`, m >= 1, which a server runs through every signature
            before it serves.
        fit_image: brings a decoded image, uint8 `[any, any, c]`, to uint8 `[h, w, c]` as evaluation
            does; None resizes it (bilinear, antialiased).

    Returns:
        The version's directory.

    Raises:
        UserError: if the version exists and holds another model.
    """
    image_shape = model.architecture.image_shape
    with model.for_export():
        module, signatures = _build_signatures(
            model, predict, classes, normalization, class_means, fit_image or _resizing(image_shape)
        )
    metadata = dict(**dataclasses.asdict(classes), image_shape=image_shape, **metadata)
    published = directory / str(version)
    trouble = damage(published)
    if not trouble:
        _check_same_model(published, module, metadata)
    else:
        if published.exists():
            LOGGER.warning("the export %s %s: it is made again", published, trouble)
        with _publishing(published) as temporary:
            tf.saved_model.save(module, str(temporary), signatures=signatures)
            _write_extra_assets(temporary, directory.name, signatures, metadata, warmup_images)
            write_digests(temporary)
    write_models_config(directory.parent)
    return published


def _build_signatures(
    model: IncrementalModel,
    predict: Callable[[tf.Tensor], Outputs],
    classes: ExportedClasses,
    normalization: Normalization,
    class_means: np.ndarray | None,
    fit_image: Callable[[tf.Tensor], tf.Tensor],
) -> tuple[tf.Module, dict[str, Any]]:
    """Returns a module with the variables in use, and the concrete functions by signature."""
    image_shape = model.architecture.image_shape
    images_spec = tf.TensorSpec([None, *image_shape], tf.uint8, name="images")
    bytes_spec = tf.TensorSpec([None], tf.string, name="image_bytes")
    # Only bare TensorFlow variables are tracked: Keras objects in the object graph make TensorFlow
    # Serving's loader miss variables, although `tf.saved_model.load` finds them.
    module = tf.Module(name="exported_phase")

    @tf.function(input_signature=[images_spec])
    def forward(images):
        # oneDNN's convolutions fail on no image at all: a black one then takes its place.
        count = tf.shape(images)[0]
        rows = [0, tf.cast(count == 0, tf.int32)]
        outputs = predict(normalization.normalize(tf.pad(images, [rows, *[[0, 0]] * 3])))
        features, logits = outputs.features[:count], outputs.logits[:count]
        return tf.cast(features, tf.float32), tf.cast(logits, tf.float32)

    def name_classes(scores):
        labels = tf.argmax(scores, axis=1)
        return {
            "class_id": tf.gather(tf.constant(classes.original_ids, tf.int64), labels),
            "class_name": tf.gather(tf.constant(classes.names), labels),
        }

    def serving_default(images):
        _, logits = forward(images)
        return {
            "logits": logits,
            "probabilities": tf.nn.softmax(logits),
            **name_classes(logits),
        }

    def serving_bytes(image_bytes):
        def decode(contents):
            with tf.control_dependencies([_check_size(contents)]):
                contents = tf.identity(contents)
            return tf.ensure_shape(fit_image(_decode(contents, image_shape[-1])), image_shape)

        return serving_default(tf.map_fn(decode, image_bytes, fn_output_signature=tf.uint8))

    def features(images):
        return {"features": forward(images)[0]}

    def nme(images):
        directions = tf.math.l2_normalize(forward(images)[0], axis=1)
        similarity = tf.matmul(directions, module.class_means, transpose_b=True)
        return {"similarity": similarity, **name_classes(similarity)}

    functions = {
        serving_default: images_spec,
        serving_bytes: bytes_spec,
        features: images_spec,
    }
    if class_means is not None:
        module.class_means = tf.Variable(class_means, dtype=tf.float32, trainable=False)
        functions[nme] = images_spec
    concrete = forward.get_concrete_function()
    _check_traced(concrete, model, classes, class_means)
    positions = {id(handle): i for i, handle in enumerate(concrete.captured_inputs)}
    module.weights = sorted(concrete.graph.variables, key=lambda v: positions[id(v.handle)])
    signatures = {
        function.__name__: tf.function(function, input_signature=[spec]).get_concrete_function()
        for function, spec in functions.items()
    }
    return module, signatures


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


def _resizing(image_shape: tuple[int, int, int]) -> Callable[[tf.Tensor], tf.Tensor]:
    def resize(image):
        resized = tf.image.resize(image, image_shape[:2], antialias=True)
        return tf.saturate_cast(tf.round(resized), tf.uint8)

    return resize


def _check_traced(
    concrete: Any,
    model: IncrementalModel,
    classes: ExportedClasses,
    class_means: np.ndarray | None,
) -> None:
    unfolded = {id(v.value) for layer in model.transfer_layers() for v in layer.variables}
    if any(id(variable) in unfolded for variable in concrete.graph.variables):
        raise ValueError("predict runs a graph traced before the export: pass a plain function")
    features, logits = concrete.structured_outputs
    num_classes = len(classes.original_ids)
    if logits.shape[1] != num_classes or len(classes.names) != num_classes:
        raise ValueError(
            f"{logits.shape[1]} logits, {num_classes} original ids and {len(classes.names)} names: "
            "one of each is expected for every class"
        )
    if class_means is not None and class_means.shape != (num_classes, features.shape[1]):
        raise ValueError(
            f"class_means of shape {class_means.shape}, expected {(num_classes, features.shape[1])}"
        )


def _check_same_model(published: pathlib.Path, module: tf.Module, metadata: dict[str, Any]) -> None:
    """Raises UserError unless what lies in `published` is what was about to be written."""
    try:
        found = json.loads((published / EXTRA / "metadata.json").read_text("utf-8"))
        weights = _stored(published)
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise UserError(_occupied(published, f"it can't be read ({error})")) from error
    for key in ("original_ids", "names"):
        if found.get(key) != list(metadata[key]):
            raise UserError(_occupied(published, f"its {key} are not those of this phase"))
    expected = {f"weights/{i}": variable for i, variable in enumerate(module.weights)}
    if hasattr(module, "class_means"):
        expected["class_means"] = module.class_means
    for name, variable in expected.items():
        stored = weights.get(f"{name}/.ATTRIBUTES/VARIABLE_VALUE", np.empty(0))
        if stored.shape != variable.shape or not np.allclose(
            stored, variable.numpy(), rtol=1e-4, atol=1e-5
        ):
            raise UserError(_occupied(published, "its weights are not those of this model"))


def _stored(published: pathlib.Path) -> dict[str, np.ndarray]:
    with plain_path(published) as path:
        reader = tf.train.load_checkpoint(f"{path}/variables/variables")
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_dtype_map()}


def _occupied(published: pathlib.Path, reason: str) -> str:
    return (
        f"{published} exists and holds another model ({reason}); a version is never overwritten: "
        "choose another run directory, or remove this version once no server uses it"
    )


@contextlib.contextmanager
def _publishing(published: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a directory to fill, which becomes `published` on leaving without an error.

    What an interrupted export left behind is removed by the next one.
    """
    check_held(published)
    temporary = published.with_name(f"{_TEMPORARY_PREFIX}{published.name}")
    with user_error_on_disk_trouble(published):
        published.parent.mkdir(parents=True, exist_ok=True)
        for stale in published.parent.glob(f"{_TEMPORARY_PREFIX}*"):
            _remove(stale)
        temporary.mkdir()
        try:
            yield temporary
        except tf.errors.ResourceExhaustedError as error:  # TensorFlow's word for a full disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        for path in [*temporary.rglob("*"), temporary]:
            flush_to_disk(path)
        if published.exists():
            aside = published.with_name(f"{_ASIDE_PREFIX}{published.name}")
            _remove(aside)
            os.replace(published, aside)
        os.replace(temporary, published)
        flush_to_disk(published.parent)


def _on_one_line(name: str) -> str:
    r"""Returns the name of a class as a line of its own: a line break in it is written `\n`."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), name)


def _remove(path: pathlib.Path) -> None:
    """Removes a directory, or a file in its place, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_extra_assets(
    saved_model: pathlib.Path,
    model_name: str,
    signatures: Mapping[str, Any],
    metadata: dict[str, Any],
    warmup_images: np.ndarray,
) -> None:
    extra = saved_model / EXTRA
    extra.mkdir()
    write_text(
        extra / "labels.txt", "".join(f"{_on_one_line(name)}\n" for name in metadata["names"])
    )
    write_json(extra / "metadata.json", metadata)
    examples = {
        "images": tf.constant(warmup_images, tf.uint8),
        "image_bytes": tf.stack([tf.io.encode_png(image) for image in warmup_images]),
    }
    requests = []
    for name, function in signatures.items():
        (spec,), _ = function.structured_input_signature
        requests.append((name, {spec.name: examples[spec.name]}))
    write_warmup_requests(extra / "tf_serving_warmup_requests", model_name, requests)
