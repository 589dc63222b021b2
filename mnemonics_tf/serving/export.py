"""A SavedModel for every phase, complete for TensorFlow Serving and free of this project's code."""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.pipeline import Normalization
from mnemonics_tf.errors import UserError
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.run.files import (
    check_held,
    flush_to_disk,
    remove_tree,
    user_error_on_disk_trouble,
    write_json,
    write_text,
)
from mnemonics_tf.serving.assets import write_models_config, write_warmup_requests
from mnemonics_tf.serving.loading import EXTRA, damage, plain_path, write_digests
from mnemonics_tf.serving.signatures import ExportedClasses, Signatures

# TensorFlow Serving looks only at directories whose name is a number.
_TEMPORARY_PREFIX = ".tmp-"
_ASIDE_PREFIX = ".damaged-"

#: what ends a line for some reader or other, and what a terminal would act on
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

#: what servers, paths and URLs take for a name
_MODEL_NAME = re.compile(r"\w[\w.-]*", re.ASCII)


def export_folder(
    root: pathlib.Path, dataset: str, wanted: str = "", noted: str = ""
) -> pathlib.Path:
    """Returns the folder, in a run's exports, of its versions; it bears the name that is served.

    Args:
        root: of the exports.
        dataset: gives the name, as a file name, where there is none and none is wanted.
        wanted: the name that is asked for, if any.
        noted: the name that was asked for when the run began, if any; what is no name is ignored.

    Raises:
        UserError: if it can't be a name, or the run has been exported under another one: versions
            of one model in two places would be two models to a server.
    """
    if wanted and not _MODEL_NAME.fullmatch(wanted):
        raise UserError(
            f"--model_name={wanted!r} is no name that servers and paths agree on: pass letters, "
            "digits, _, - and ., a letter or digit first"
        )
    found = sorted({path.parent.name for path in root.glob("*/*") if path.name.isdecimal()})
    if wanted and found and found != [wanted]:
        raise UserError(
            f"--model_name={wanted}: {root.parent} has been exported as {', '.join(found)}: leave "
            "the flag out, or rename the folder while no server uses it"
        )
    if len(found) == 1:
        return root / found[0]
    if not wanted and _MODEL_NAME.fullmatch(noted):
        wanted = noted
    return root / (wanted or re.sub(r"[^\w.-]", "_", dataset))


def export_phase(
    directory: pathlib.Path,
    version: int,
    model: IncrementalModel,
    classes: ExportedClasses,
    normalization: Normalization,
    class_means: np.ndarray,
    metadata: Mapping[str, Any],
    warmup_images: np.ndarray,
    fit_image: Callable[[tf.Tensor], tf.Tensor] | None = None,
) -> pathlib.Path:
    """Writes `directory/version` and, beside `directory`, models.config.

    Signatures (n is any batch size, also 0; K the number of classes, d the features' dimension):

    - `serving_default`: `images` uint8 `[n, h, w, c]` -> `logits` `[n, K]`, `probabilities`
      `[n, K]`, `class_id` int64 `[n]` (original ids), `class_name` string `[n]`; and the likeliest
      min(5, K) classes in their order: `top_class_id`, `top_class_name`, `top_probability`
    - `serving_bytes`: `image_bytes` string `[n]`, each a JPEG or PNG file of at most
      `signatures.MAX_PIXELS` -> the same; left out for images of two channels, which TensorFlow
      decodes no file to
    - `scores`: `images` -> `logits`, `probabilities`, `class_id`: numbers alone, for formats that
      have no strings
    - `features`: `images` -> `features` `[n, d]`
    - `nme`: `images` -> `similarity` `[n, K]` (cosine of features and class means), `class_id`,
      `class_name`: nearest mean of exemplars

    A version appears at once or not at all, and one that is whole is never overwritten. One that an
    interrupted run left complete is kept if it holds this very model; call this once the phase's
    checkpoint is safe, so that a resumed run comes back with the same weights. One that is damaged
    is set aside as `.damaged-VERSION`, which no server looks at, and written again.

    Args:
        directory: RUN/export/NAME; NAME is the name under which the model is served.
        version: number of phases learned, counted from 1.
        model: whose convolutions are exported, with all scales folded into plain kernels; it may
            call no `tf.function`, whose cached graph would outlive this call.
        classes: the K classes, by label.
        normalization: of the images; it becomes part of the exported graph.
        class_means: `[K, d]`, L2-normalised, by label.
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
        signatures = Signatures(model, classes, normalization, class_means, fit_image)
    metadata = dict(**dataclasses.asdict(classes), image_shape=image_shape, **metadata)
    published = directory / str(version)
    trouble = damage(published)
    if not trouble:
        _check_same_model(published, signatures.module, metadata)
    else:
        if published.exists():
            LOGGER.warning("the export %s %s: it is made again", published, trouble)
        with _publishing(published) as temporary:
            functions = signatures.functions
            tf.saved_model.save(signatures.module, str(temporary), signatures=functions)
            _write_extra_assets(temporary, directory.name, functions, metadata, warmup_images)
            write_digests(temporary)
    write_models_config(directory.parent)
    return published


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
            remove_tree(stale)
        temporary.mkdir()
        try:
            yield temporary
        except tf.errors.ResourceExhaustedError as error:  # TensorFlow's word for a full disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        for path in [*temporary.rglob("*"), temporary]:
            flush_to_disk(path)
        if os.path.lexists(published):  # a link that leads nowhere would be in the way too
            aside = published.with_name(f"{_ASIDE_PREFIX}{published.name}")
            remove_tree(aside)
            os.replace(published, aside)
        os.replace(temporary, published)
        flush_to_disk(published.parent)


def _on_one_line(name: str) -> str:
    r"""Returns the name of a class as a line of its own: a line break in it is written `\n`."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), name)


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
