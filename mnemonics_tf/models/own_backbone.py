"""A backbone of the user's own: a function that builds it, a .keras file, or keras.applications.

What a file holds is loaded without running code in it: `.keras` files in Keras' safe mode, weights
as arrays. `package.module:build` alone is code, by intent.
"""

import contextlib
import hashlib
import inspect
import json
import pathlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from mnemonics_tf.errors import UserError, few, printable
from mnemonics_tf.models.conversion import Converted, as_functional, convert, weights_of
from mnemonics_tf.models.converted_layers import FromNormalized
from mnemonics_tf.models.layers import BatchNormalization
from mnemonics_tf.models.resnet import BACKBONES, Backbone
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.paths import user_path
from mnemonics_tf.randomness import derive_seed
from mnemonics_tf.registry import find, imported
from mnemonics_tf.run.files import check_regular
from mnemonics_tf.settings import KERAS_APPLICATIONS, KERAS_FILE, ModelSettings

#: --backbone_input -> what black and white are to be
_RANGES = {"0..255": (0.0, 255.0), "-1..1": (-1.0, 1.0)}

#: what --backbone_weights may be
_WEIGHTS_SUFFIXES = (".weights.h5", ".h5", KERAS_FILE)

#: how far outputs may be apart before and after conversion, as a share of the largest; where the
#: user's model computes in 16 bits, its own are no closer to the truth
_TOLERANCE = 1e-5
_TOLERANCE_16_BITS = 2e-2


class OwnBackbone:
    """A user's Keras model, of which a run makes as many backbones as it needs.

    Args:
        name: as in --backbone.
        source: the model, with the weights that backbones begin with.
        settings: of the run's model.
        image_shape: `(h, w, c)` of the images.
        mean: of x / 255 over the data, one per channel.
        std: likewise.
        seed: of the run; random numbers that layers draw, as dropout does, follow from it.

    Attributes:
        name: as passed.
        source: as passed.
        digests: of its `configuration` and its `weights`, each a hash.
        kept: layers that weight transfer can't freeze, `name (class)`.
        momentum: the largest of its batch normalisations; 0 where there are none.

    Raises:
        UserError: if it is not a model of one image and one vector, or not equal after conversion.
    """

    def __init__(
        self,
        name: str,
        source: Any,
        settings: ModelSettings,
        image_shape: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
    ):
        self.name = name
        self.source = _checked(name, source, image_shape)
        self._image_shape = tuple(image_shape)
        self._range = _RANGES.get(settings.backbone_input)
        self._normalization = (tuple(mean), tuple(std))
        self._seed = derive_seed(seed, "backbone")
        converted = self._convert()
        self.kept = converted.kept
        self.momentum = max(
            (one.momentum for one in converted.model.layers if isinstance(one, BatchNormalization)),
            default=0.0,
        )
        self.digests = {
            "configuration": _digest(json.dumps(converted.description, sort_keys=True).encode()),
            "weights": digest_of(weights_of(self.source)),
        }
        self._check_equal(converted.model)
        self._tell(converted, settings)

    def build(self) -> keras.Model:
        """Returns a backbone, from normalised images to features, with the first weights."""
        return self._convert().model

    def _pixels(self) -> FromNormalized | None:
        return FromNormalized(*self._normalization, *self._range) if self._range else None

    def _convert(self) -> Converted:
        with seeded(self._seed):
            return convert(self.source, self._image_shape, self._pixels(), "backbone")

    def _check_equal(self, model: keras.Model) -> None:
        """Refuses a conversion that changes the outputs, on a few random images."""
        generator = np.random.default_rng(0)
        mean, std = self._normalization
        pixels = generator.uniform(0, 1, (2, *self._image_shape))
        images = ((pixels - np.array(mean)) / np.array(std)).astype(np.float32)
        pixels_layer = self._pixels()
        eaten = images if pixels_layer is None else pixels_layer(images)
        before = np.array(self.source(eaten), np.float64)
        after = np.array(model(images), np.float64)
        error = np.abs(after - before).max() / max(np.abs(before).max(), 1e-30)
        narrow = any(layer.compute_dtype.endswith("float16") for layer in self.source.layers)
        if not error <= (_TOLERANCE_16_BITS if narrow else _TOLERANCE):
            raise UserError(
                f"--backbone={self.name}: made of this project's layers its outputs differ by "
                f"{error:.1e} of the largest: a layer of its own computes something else each "
                "time, or depends on more than its inputs, weights and configuration"
            )
        self._error = error

    def _tell(self, converted: Converted, settings: ModelSettings) -> None:
        LOGGER.info(
            "backbone %s: %d layers, %d numbers, features [n, %d]; in the layers that runs use "
            "its outputs differ by at most %.0e of the largest",
            self.name,
            len(converted.model.layers),
            converted.model.count_params(),
            converted.model.output_shape[-1],
            self._error,
        )
        if converted.kept:
            LOGGER.info("weight transfer could not freeze its %s", few(converted.kept))
        if converted.not_used:
            LOGGER.warning(
                "--backbone=%s: left out in training, where --weight_decay acts: %s",
                self.name,
                few(converted.not_used),
            )
        rescales = any(isinstance(layer, keras.layers.Rescaling) for layer in self.source.layers)
        if rescales and settings.backbone_input != "0..255":
            LOGGER.warning(
                "--backbone=%s rescales pixels by itself, and gets %s ones: "
                "--backbone_input=0..255 gives it pixels",
                *(self.name, settings.backbone_input),
            )


def opens_own(settings: ModelSettings) -> bool:
    """Whether the backbone is a model of the user's own.

    Raises:
        UserError: if there is none of that name; or if it is not, and settings are there that only
            those have.
    """
    name = settings.backbone
    if name not in BACKBONES:
        if _is_from_keras(name):
            return True
        if not isinstance(find(BACKBONES, name, "backbone"), Backbone):
            return True
    if settings.backbone_input != ModelSettings().backbone_input:
        raise UserError(
            f"--backbone_input={settings.backbone_input} with --backbone={name}, which eats "
            "normalised images: leave it out"
        )
    return False


def _is_from_keras(name: str) -> bool:
    return name.startswith(KERAS_APPLICATIONS) or name.endswith(KERAS_FILE)


def read_source(
    settings: ModelSettings, weights: str, image_shape: Sequence[int], seed: int
) -> keras.Model:
    """Returns the user's model, as --backbone and --backbone_weights name it.

    Args:
        settings: of the run's model.
        weights: a file, or nothing.
        image_shape: `(h, w, c)` of the images.
        seed: of first weights that are drawn.

    Raises:
        UserError: if it can't be had; names what was passed and what is expected.
    """
    name = settings.backbone
    if settings.depth != ModelSettings().depth:
        raise UserError(
            f"--depth={settings.depth} with --backbone={name}, whose depth is its own: leave it out"
        )
    with seeded(derive_seed(seed, "backbone")):
        if name.startswith(KERAS_APPLICATIONS):
            model = _application(name, image_shape)
        elif name.endswith(KERAS_FILE):
            if weights:
                raise UserError(
                    f"--backbone_weights={weights} with --backbone={name}, which holds its weights "
                    "itself: leave it out"
                )
            model = _read_file(name)
        else:
            model = _built(name, image_shape, seed)
    if weights:
        _load_weights(name, model, weights)
    elif name.startswith(KERAS_APPLICATIONS):
        LOGGER.warning(
            "--backbone=%s begins with random weights: --backbone_weights=FILE gives it others",
            name,
        )
    return model


def _application(name: str, image_shape: Sequence[int]) -> keras.Model:
    wanted = name.removeprefix(KERAS_APPLICATIONS)
    known = [
        key
        for key, value in vars(keras.applications).items()
        if inspect.isfunction(value) and "include_top" in inspect.signature(value).parameters
    ]
    if wanted not in known:
        raise UserError(f"--backbone={name}: keras.applications has {', '.join(sorted(known))}")
    try:
        return getattr(keras.applications, wanted)(
            include_top=False, weights=None, pooling="avg", input_shape=tuple(image_shape)
        )
    except ValueError as error:
        raise UserError(
            f"--backbone={name} can't be built for images {list(image_shape)}: {error}"
        ) from error


def _read_file(name: str) -> keras.Model:
    path = _existing(name, "--backbone")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises nearly anything at files that it does not like
        raise UserError(
            f"--backbone={name} can't be loaded in Keras' safe mode ({_reason(error)}): a file may "
            "hold no code, no lambda and no class of one's own; a model of such layers is passed "
            "as --backbone=package.module:build"
        ) from error


def _built(name: str, image_shape: Sequence[int], seed: int) -> Any:
    build = imported(name, "backbone")
    if not callable(build) or inspect.isclass(build):
        raise UserError(
            f"--backbone={name} is {type(build).__name__}: expected a function build(image_shape, "
            f"seed) that returns a Keras model, or a Backbone of {Backbone.__module__}"
        )
    try:
        return build(tuple(image_shape), seed)
    except Exception as error:  # whatever the user's code raises
        raise UserError(
            f"--backbone={name}: calling it with image_shape={tuple(image_shape)} and seed={seed} "
            f"failed ({_reason(error)})"
        ) from error


def _load_weights(name: str, model: Any, weights: str) -> None:
    if not weights.endswith(_WEIGHTS_SUFFIXES):
        raise UserError(
            f"--backbone_weights={weights}: expected a file that Keras saved, its name ending in "
            f"{', '.join(_WEIGHTS_SUFFIXES)}"
        )
    path = _existing(weights, "--backbone_weights")
    try:
        model.load_weights(path)
    except Exception as error:  # Keras raises nearly anything at files that it does not like
        raise UserError(
            f"--backbone_weights={weights} does not fit --backbone={name} ({_reason(error)}): pass "
            "weights of this very model, without its classifier (include_top=False)"
        ) from error


def _existing(path: str, flag: str) -> pathlib.Path:
    found = user_path(path)
    check_regular(found)
    if not found.exists():
        raise UserError(f"{flag}={printable(path)}: there is no such file")
    return found.absolute()


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _checked(name: str, model: Any, image_shape: Sequence[int]) -> keras.Model:
    """Returns the model's graph.

    Raises:
        UserError: if it is no graph, or not one from the data's images to one vector each.
    """
    graph = as_functional(model) if isinstance(model, keras.Model) else None
    if graph is None:
        raise UserError(
            f"--backbone={name} is {type(model).__name__}: expected a functional or Sequential "
            "Keras model that knows its input"
        )
    inputs, outputs = (
        [_shape(tensor) for tensor in part] for part in (graph.inputs, graph.outputs)
    )
    is_vector = len(outputs) == 1 and len(outputs[0]) == 2 and outputs[0][1] != "n"
    if len(inputs) != 1 or len(inputs[0]) != 4 or not is_vector:
        raise UserError(
            f"--backbone={name} has inputs {_listed(inputs)} and outputs {_listed(outputs)}: "
            "expected one input [n, h, w, c] and one output [n, d], e.g. the output of "
            "GlobalAveragePooling2D"
        )
    sizes = zip(inputs[0][1:], image_shape, strict=True)
    if any(size not in ("n", wanted) for size, wanted in sizes):
        raise UserError(
            f"--backbone={name} eats images {_listed(inputs)}, and the data has "
            f"[n, {', '.join(map(str, image_shape))}]: pass a model of that shape, or, where the "
            "data are files of images, its size as --image_size"
        )
    return graph


def _shape(tensor: Any) -> list[Any]:
    return ["n" if size is None else size for size in tensor.shape]


def _listed(shapes: Sequence[Sequence[Any]]) -> str:
    return ", ".join(f"[{', '.join(map(str, shape))}]" for shape in shapes)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within it, Keras draws seeds that nobody chose from Python's random numbers of this seed."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns a hash of named arrays."""
    hasher = hashlib.blake2b(digest_size=16)
    for name, array in arrays.items():
        hasher.update(f"{name} {array.dtype} {array.shape}\n".encode())
        hasher.update(array.tobytes())
    return hasher.hexdigest()


def _digest(contents: bytes) -> str:
    return hashlib.blake2b(contents, digest_size=16).hexdigest()
