"""A Keras model of any user as a backbone: the same outputs, with weight transfer in it.

The graph of layers is walked once and built anew from layers of this project: nested models
become part of it, layers that occur several times stay one, and names follow from the graph alone,
so that a model built in another process has variables of the same names.
"""

import dataclasses
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from mnemonics_tf.errors import UserError, few
from mnemonics_tf.models.converted_layers import (
    FixedNormalization,
    FromNormalized,
    GroupNormalization,
    LayerNormalization,
    ScaledConvolution,
    ScaledDense,
    ScaledDepthwiseConvolution,
    ScaledLayer,
    converted_normalization,
)

#: Keras layer -> the one with weight transfer that takes its place
_SCALED = {
    keras.layers.Conv2D: ScaledConvolution,
    keras.layers.DepthwiseConv2D: ScaledDepthwiseConvolution,
    keras.layers.Dense: ScaledDense,
}

#: Keras layer -> the same, right in second order
_EXACT = {
    keras.layers.LayerNormalization: LayerNormalization,
    keras.layers.GroupNormalization: GroupNormalization,
}

#: settings of layers that training here has no use for
_NOT_USED = re.compile(r".*_(regularizer|constraint)")

#: of a layer's configuration, what is no part of what it computes
_NO_PART = ("name", "dtype", "build_config")


@dataclasses.dataclass(frozen=True)
class Converted:
    """A user's model as a backbone.

    Attributes:
        model: maps normalised images to features.
        kept: layers with weights of their own that weight transfer can't freeze: `name (class)`.
        not_used: regularizers and constraints, which are left out: `name (which)`.
        description: what it computes, apart from its weights and names: the calls in order, each
            with its layer, that one's class and configuration, and where its inputs come from.
    """

    model: keras.Model
    kept: tuple[str, ...]
    not_used: tuple[str, ...]
    description: list[Any]


def convert(
    source: keras.Model, image_shape: Sequence[int], pixels: FromNormalized | None, name: str
) -> Converted:
    """Returns a model with the outputs and weights of `source`, which stays as it is.

    Args:
        source: a functional or Sequential model of one input and one output.
        image_shape: `(h, w, c)` of the images.
        pixels: brings normalised images to what the model eats; None where it eats those.
        name: of the new model.

    Raises:
        UserError: if a layer can't be made again.
    """
    conversion = _Conversion()
    images = keras.Input(tuple(image_shape), name="images")
    inputs = images if pixels is None else pixels(images)
    outputs = conversion.run(source, inputs, "")
    model = keras.Model(images, outputs, name=name)
    paths = [variable.path for variable in model.variables]
    twice = sorted({path for path in paths if paths.count(path) > 1})
    if twice:
        raise UserError(
            f"--backbone: several weights are called {', '.join(twice[:5])}: give their layers "
            "names of their own"
        )
    return Converted(
        model, tuple(conversion.kept), tuple(conversion.not_used), conversion.description
    )


def as_functional(model: keras.Model) -> keras.Model | None:
    """Returns the graph of a functional or Sequential model, or None where there is none."""
    try:
        if isinstance(model, keras.Sequential):
            return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    except (AttributeError, TypeError, ValueError):  # without an input it was never built
        return None
    is_graph = isinstance(model, keras.Model) and hasattr(model, "_run_through_graph")
    return model if is_graph else None


def right_in_second_order(model: keras.Model) -> keras.Model:
    """Returns a model with layers whose gradient can be differentiated in the place of Keras' own.

    The variance of Keras' layer and group normalisation has the right gradient and a wrong second
    one. A model without them is returned as it is.

    Args:
        model: with its weights, which the other one gets too.

    Raises:
        UserError: if the model has no graph of layers in which others could take their place, or a
            layer can't be made again.
    """
    found = [layer for layer in model._flatten_layers() if type(layer) in _EXACT]
    if not found:
        return model
    if as_functional(model) is None:
        raise UserError(
            f"model {model.name} holds {type(found[0]).__name__}, whose gradient can't be "
            "differentiated as Keras has it, and no graph of layers in which another could take "
            "its place: pass a functional or Sequential model"
        )

    def remade(layer: keras.layers.Layer) -> keras.layers.Layer:
        kind: Any = _EXACT.get(type(layer), type(layer))
        return _again(layer, kind, f"model {model.name}")

    exact = keras.models.clone_model(model, clone_function=remade, recursive=True)
    set_weights(exact, weights_of(model))
    return exact


def wrong_batch_statistics(model: keras.Model) -> list[str]:
    """Returns the layers whose batch statistics have no right second gradient: `name (class)`.

    Keras' batch normalisation stops the gradient of the mean inside the variance; a frozen layer
    takes no batch statistics.

    Args:
        model: of whatever layers.
    """
    return [
        f"{layer.name} ({type(layer).__name__})"
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]


def check_normalizations(model: keras.Model, trained: str, otherwise: str = "") -> None:
    """Refuses layers whose variance has no right second gradient.

    None could take the place of those within a layer of the user's own, nor of a class derived from
    Keras'.

    Args:
        model: of whatever layers, through which second derivatives are taken.
        trained: what was passed that asks for them, for the message.
        otherwise: another way out than other layers.

    Raises:
        UserError: names the layers, and what may take their place.
    """
    kinds: tuple[type[keras.layers.Layer], ...] = tuple(_EXACT)
    wrong = [
        f"{layer.name} ({type(layer).__name__})"
        for layer in model._flatten_layers()
        if isinstance(layer, kinds) and not isinstance(layer, tuple(_EXACT.values()))
        if not getattr(layer, "rms_scaling", False)  # whose variance is another
    ]
    if wrong:
        raise UserError(
            f"{trained}: Keras' layer and group normalisation have no right second gradient, so "
            f"that exemplars would learn from a wrong one by these layers: {few(wrong)}; make them "
            "LayerNormalization or GroupNormalization of mnemonics_tf.models.converted_layers, or "
            f"of a class derived from those{otherwise}"
        )


class _Conversion:
    """One walk over a graph and the graphs nested in it."""

    def __init__(self):
        self.kept: list[str] = []
        self.not_used: list[str] = []
        self.description: list[Any] = []
        self._converted: dict[int, tuple[Any, str]] = {}
        self._names: set[str] = {"images", "pixels"}
        self._counts: dict[str, int] = {}
        #: number of a tensor of the new graph, by its identity; the images are 0
        self._tensors: dict[int, int] = {}
        #: those tensors: one that is gone might give its identity to another
        self._alive: list[Any] = []

    def run(self, model: keras.Model, inputs: Any, prefix: str) -> Any:
        """Returns the outputs of a model on the inputs, as a part of the new graph."""
        graph: Any = as_functional(model)
        shifted = _shifted_by_normalization(graph)

        def call(operation, *args, **kwargs):
            if isinstance(operation, keras.Model) and as_functional(operation) is not None:
                # A mode that was fixed for it gives way to the run's, as in Keras' own call.
                return self.run(operation, args[0], f"{prefix}{operation.name}_")
            made, name = self._made_once(operation, prefix, id(operation) in shifted)
            outputs = made(*args, **_understood(made, kwargs, name))
            self._copy_weights(operation, made)
            self._describe(operation, name, args, kwargs, outputs)
            return outputs

        return graph._run_through_graph(inputs, operation_fn=lambda one: one, call_fn=call)

    def _made_once(self, operation: Any, prefix: str, shifted: bool) -> tuple[Any, str]:
        """Returns what takes the place of a layer or operation, the same at every call of it."""
        if id(operation) not in self._converted:
            name = self._name(operation, prefix)
            self._converted[id(operation)] = (self._make(operation, name, shifted), name)
        return self._converted[id(operation)]

    def _make(self, operation: Any, name: str, shifted: bool) -> Any:
        kind = type(operation)
        channels_last = getattr(operation, "data_format", "channels_last") == "channels_last"
        self._note_not_used(operation, name)
        if kind in _SCALED and channels_last and not _is_modified(operation):
            return _SCALED[kind](operation, name, shifted)
        if kind is keras.layers.BatchNormalization and not operation.renorm:
            return converted_normalization(operation, name)
        if kind is keras.layers.Normalization:
            return FixedNormalization(operation, name)
        if kind not in _EXACT and getattr(operation, "trainable_weights", None):
            self.kept.append(f"{name} ({kind.__name__})")
        changed = {"name": name}
        if isinstance(operation, keras.layers.Layer):
            changed["dtype"] = keras.config.floatx()
        return _again(operation, _EXACT.get(kind, kind), "--backbone", **changed)

    def _note_not_used(self, operation: Any, name: str) -> None:
        found = [
            key
            for key, value in vars(operation).items()
            if value is not None and _NOT_USED.fullmatch(key)
        ]
        if found:
            self.not_used.append(f"{name} ({', '.join(found)})")

    def _copy_weights(self, operation: Any, made: Any) -> None:
        """Gives a layer that was made again its weights, once its first call has built it."""
        done = made is operation or isinstance(made, FixedNormalization | ScaledLayer)
        if not done and isinstance(made, keras.layers.Layer) and made.weights:
            set_weights(made, weights_of(operation))
        if not done and isinstance(made, keras.layers.Layer):
            # Keras numbers the states of random numbers through the process.
            states = [v for v in made.variables if v.name == "seed_generator_state"]
            for place, state in enumerate(states):
                state._path = f"{made.name}/seed_generator_state_{place}"

    def _name(self, operation: Any, prefix: str) -> str:
        """Returns a layer's name, or one by its class and place where Keras numbered it."""
        generic = _snake_case(type(operation).__name__)
        name = operation.name
        if re.fullmatch(rf"{generic}(_\d+)?", name):
            name = generic
        elif name in self._names:
            name = f"{prefix}{name}"
        if name == generic or name in self._names:
            count = self._counts[name] = self._counts.get(name, 0) + 1
            name = f"{name}_{count}"
        self._names.add(name)
        return name

    def _describe(self, operation: Any, name: str, args: Any, kwargs: Any, outputs: Any) -> None:
        config = operation.get_config() if _has_config(operation) else {}
        config = {key: value for key, value in config.items() if key not in _NO_PART}
        inputs = keras.tree.map_structure(self._number, (list(args), dict(kwargs)))
        for output in keras.tree.flatten(outputs):
            self._tensors[id(output)] = len(self._tensors) + 1
            self._alive.append(output)
        entry = [name, type(operation).__name__, config, inputs]
        # What JSON does not know has an address in its text, which is another in every process.
        text = json.dumps(entry, default=lambda value: type(value).__name__)
        self.description.append(json.loads(text))

    def _number(self, value: Any) -> Any:
        if isinstance(value, keras.KerasTensor):
            return f"tensor {self._tensors.get(id(value), 0)}"
        return value if isinstance(value, str | int | float | bool) else type(value).__name__


def _understood(made: Any, kwargs: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the arguments of a call that a layer which takes another one's place has too.

    Raises:
        UserError: if another one says something, which only a mask can.
    """
    if made.__class__.__module__.partition(".")[0] != __name__.partition(".")[0]:
        return dict(kwargs)
    known = inspect.signature(made.call).parameters
    lost = [key for key, value in kwargs.items() if key not in known and value is not None]
    if lost:
        raise UserError(
            f"--backbone: the layer {name} is called with {', '.join(lost)}, which a model of "
            "images has no use for: leave it out"
        )
    return {key: value for key, value in kwargs.items() if key in known}


def _is_modified(layer: keras.layers.Layer) -> bool:
    """Whether a layer has more weights than a plain one: quantised, or with low-rank updates."""
    return len(layer.weights) != 1 + layer.use_bias


def _again(operation: Any, kind: Any, place: str, **changed: Any) -> Any:
    """Returns a layer or operation made anew, without weights yet; or itself if it has none.

    Args:
        operation: of a model.
        kind: the class of the new one.
        place: where it stands, for the message.
        **changed: what differs in its configuration.

    Raises:
        UserError: if it has weights and can't be made.
    """
    try:
        return kind.from_config({**operation.get_config(), **changed})
    except Exception as error:  # whatever the user's class raises
        if not getattr(operation, "variables", None):
            return operation
        raise UserError(
            f"{place}: the layer {operation.name} ({kind.__name__}) can't be made again from its "
            f"configuration ({type(error).__name__}: {' '.join(str(error).split())[:300]}): give "
            "its class get_config and from_config"
        ) from error


def _has_config(operation: Any) -> bool:
    try:
        operation.get_config()
    except Exception:  # whatever the user's class raises
        return False
    return True


def _shifted_by_normalization(graph: keras.Model) -> set[int]:
    """Returns the identities of layers whose outputs go to batch normalisations with beta only."""
    following: dict[int, list[Any]] = {}
    for operation in graph.operations:
        for node in operation._inbound_nodes:
            for tensor in node.input_tensors:
                before = tensor._keras_history.operation
                following.setdefault(id(before), []).append(operation)
    kind = keras.layers.BatchNormalization
    return {
        before
        for before, layers in following.items()
        if all(isinstance(layer, kind) and layer.center for layer in layers)
    }


def _snake_case(name: str) -> str:
    """Returns what Keras calls layers of a class that were given no name."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def weights_of(layer: keras.layers.Layer) -> dict[str, np.ndarray]:
    """Returns the weights of a user's model or layer as arrays, named by their places."""
    return {
        str(place): keras.ops.convert_to_numpy(weight) for place, weight in enumerate(layer.weights)
    }


def set_weights(layer: keras.layers.Layer, arrays: Mapping[str, np.ndarray]) -> None:
    """Sets what `weights_of` returned.

    Raises:
        ValueError: if they are those of another model or layer.
    """
    layer.set_weights(list(arrays.values()))
    for one in layer._flatten_layers():
        if isinstance(one, keras.layers.Normalization) and one.built:
            one.finalize_state()  # its constants follow its weights on demand only
