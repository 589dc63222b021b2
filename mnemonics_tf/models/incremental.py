"""The incremental model: a backbone and a classifier that grows with every phase."""

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from mnemonics_tf.arrays import check_shapes
from mnemonics_tf.models.architecture import Architecture
from mnemonics_tf.models.classifiers import (
    CLASSIFIERS,
    MASKED,
    NO_CORRECTION,
    GrowingClassifier,
    LogitCorrection,
    seen_columns,
)
from mnemonics_tf.models.converted_layers import FromNormalized, ScaledLayer
from mnemonics_tf.models.layers import (
    BatchNormalization,
    PlainWeights,
    WeightTransferConvolution,
)
from mnemonics_tf.randomness import derive_seed

#: variables that weight transfer alone trains
_TRANSFER = ("transfer_scale", "transfer_shift")


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a model says of a batch.

    Attributes:
        features: `[n, d]`.
        logits: `[n, classes]`; within a graph `[n, capacity]`, with `MASKED` for unseen classes.
        scale: what a cosine classifier multiplied the cosines by; 1 for a linear one.
        num_seen: how many classes the model knows, a float; None where `logits` holds no others.
    """

    features: tf.Tensor
    logits: tf.Tensor
    scale: tf.Tensor | float = 1.0
    num_seen: tf.Tensor | float | None = None

    @property
    def num_classes(self) -> tf.Tensor | float:
        """How many classes the model knows, as a float that losses may divide by."""
        return float(self.logits.shape[1]) if self.num_seen is None else self.num_seen


class IncrementalModel:
    """Theta_i: a backbone and a growing classifier over the classes seen so far.

    One such object goes through all phases of a run: what a phase changes are values, so that
    graphs that were traced with it stay good.

    Args:
        architecture: what to build.
        num_old: classes that earlier phases taught.
        num_new: classes of the current phase.
        seed: for initial weights; a class's first weights depend on it and on the class's label
            only.
        capacity: how many classes the classifier has room for; None rounds their number up.

    Attributes:
        architecture: as passed.
        seed: as passed.
        backbone: maps images to features.
        classifier: maps features to logits.
        correction: of the logits (BiC), or None.
        transfer: whether weight transfer is on.
    """

    def __init__(
        self,
        architecture: Architecture,
        num_old: int,
        num_new: int,
        seed: int,
        capacity: int | None = None,
    ):
        self.architecture = architecture
        self.seed = seed
        self.backbone = architecture.build_backbone(seed)
        self.classifier = self._build_classifier(num_old, num_new, capacity)
        self.correction = self._build_correction()
        self.transfer = False
        self._for_export = False
        self._learnable = self._learned_by_any()

    def _learned_by_any(self) -> set[int]:
        """Returns the identities of the backbone's variables that training or transfer moves."""
        learned = {id(variable) for variable in self.backbone.trainable_variables}
        self.set_transfer(True)
        learned |= {id(variable) for variable in self.backbone.trainable_variables}
        self.set_transfer(False)
        return learned

    def _build_classifier(
        self, num_old: int, num_new: int, capacity: int | None
    ) -> GrowingClassifier:
        kind = CLASSIFIERS[self.architecture.classifier]
        layer = kind(num_old, num_new, self._classifier_seed(num_old), capacity)
        layer.build((None, self.feature_size))
        return layer

    def _classifier_seed(self, num_old: int) -> int:
        return derive_seed(self.seed, "classifier", num_old)

    def _build_correction(self) -> LogitCorrection | None:
        if not self.architecture.corrects_logits:
            return None
        layer = LogitCorrection(name="correction")
        layer.build((None, self.classifier.capacity))
        return layer

    @property
    def feature_size(self) -> int:
        """Dimension d of the features."""
        return self.backbone.output_shape[-1]

    @property
    def num_classes(self) -> int:
        """How many classes were seen."""
        return self.classifier.num_classes

    def __call__(self, images: tf.Tensor, training: bool = False) -> Outputs:
        """Maps normalised images `[n, h, w, c]` to features and logits `[n, capacity]`."""
        features = self.features(images, training)
        num_seen = None if self._for_export else self.classifier.num_seen.read_value()
        return Outputs(features, self.logits(features), self.classifier.logit_scale, num_seen)

    def features(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps normalised images `[n, h, w, c]` to features `[n, d]`, never in 16 bits."""
        features = self.backbone(images, training=training)
        # A last layer of a user's own may leave them so.
        return tf.cast(features, tf.float32) if features.dtype.size == 2 else features

    def logits(self, features: tf.Tensor) -> tf.Tensor:
        """Maps features `[n, d]` to logits `[n, capacity]`, corrected where the model corrects.

        Those of unseen classes are `MASKED`, after everything else.
        """
        logits = self.classifier(features)
        if self.correction:
            logits = self.correction(logits)
        if self._for_export:
            return logits
        seen = seen_columns(self.classifier.num_seen, self.classifier.capacity)
        return tf.where(seen, logits, tf.constant(MASKED, logits.dtype))

    def correct_logits(self, labels: Sequence[int], gain: float, offset: float) -> None:
        """Sets z_k <- gain z_k + offset for the classes `labels`."""
        assert self.correction is not None, "asked for by methods that correct logits alone"
        self.correction.set(labels, gain, offset)

    def clear_correction(self) -> None:
        """Leaves all logits as the classifier gives them."""
        if self.correction:
            self.correction.set(range(self.classifier.capacity), *NO_CORRECTION)

    @property
    def variables(self) -> list[keras.Variable]:
        """All variables in a fixed order."""
        correction = self.correction.variables if self.correction else []
        return [*self.backbone.variables, *self.classifier.variables, *correction]

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """Those that model-level training changes."""
        return [*self.backbone.trainable_variables, *self.classifier.trainable_variables]

    def scope_variables(self, scope: str) -> list[keras.Variable]:
        """Returns the variables that the inner loop of exemplar learning trains.

        Args:
            scope: `all` kernels, scales and affine parameters; `transfer`: scales, shifts and the
                classifier; `classifier`: the classifier alone.
        """
        if scope == "classifier":
            return list(self.classifier.variables)
        learned = [v for v in self.backbone.variables if id(v) in self._learnable]
        if scope == "transfer":
            learned = [v for v in learned if v.name in ("gamma", "beta", "bias", *_TRANSFER)]
        elif not self.transfer:
            # In phase 0 the scales rehearse the next one, with which they come into use.
            learned = [v for v in learned if v.name not in _TRANSFER]
        return [*learned, *self.classifier.variables]

    def transfer_layers(self) -> Iterator[WeightTransferConvolution | ScaledLayer]:
        """Yields the backbone's layers that weight transfer acts on."""
        for layer in self.backbone.layers:
            if isinstance(layer, WeightTransferConvolution | ScaledLayer):
                yield layer

    def _normalizations(self) -> Iterator[BatchNormalization]:
        """Yields the backbone's batch normalisations."""
        for layer in self.backbone._flatten_layers():  # those inside of others too
            if isinstance(layer, BatchNormalization):
                yield layer

    def transfer_in_words(self) -> str:
        """Returns how many of the backbone's numbers weight transfer freezes and trains."""
        trained: collections.Counter[str] = collections.Counter()
        for variable in self.backbone.trainable_variables:
            kind = "scales" if variable.name == "transfer_scale" else "shifts and normalisation"
            trained[kind] += int(np.prod(variable.shape))
        layers = list(self.transfer_layers())
        frozen = sum(int(np.prod(layer.kernel.shape)) for layer in layers)
        by_channel = sum(
            layer.transfer_scale.shape[-2] == 1 != layer.kernel.shape[-2] for layer in layers
        )
        shared = f" ({by_channel} layers have one for each output channel)" if by_channel else ""
        return (
            f"weight transfer freezes {frozen:,} numbers in the kernels of {len(layers)} layers "
            f"and trains {trained.total():,} of the backbone: {trained['scales']:,} scales"
            f"{shared} and {trained['shifts and normalisation']:,} shifts and parameters of "
            "normalisation"
        )

    def enable_transfer(self) -> None:
        """Switches weight transfer on: kernels freeze, scales learn; outputs do not change."""
        self.set_transfer(True)

    def set_transfer(self, transfer: bool) -> None:
        """Switches weight transfer on or off."""
        self.transfer = transfer
        for layer in self.transfer_layers():
            layer.set_transfer(transfer)

    @contextlib.contextmanager
    def exact_batch_statistics(self) -> Iterator[None]:
        """Within it, training mode takes batch statistics that are right in second order."""
        layers = list(self._normalizations())
        for layer in layers:
            layer.exact = True
        try:
            yield
        finally:
            for layer in layers:
                layer.exact = False

    @contextlib.contextmanager
    def activations_in(self, dtype: str) -> Iterator[None]:
        """Within it, the backbone's layers compute in `dtype`; for the tracing of a training step.

        All variables stay as they are, and so do the statistics of normalisation, the averaging
        into features and the classifier (mixed precision).
        """
        # The last layer makes features; pixels of a range are too fine for 16 bits.
        layers = [x for x in self.backbone.layers[:-1] if not isinstance(x, FromNormalized)]
        policies = [layer.dtype_policy for layer in layers]
        for layer in layers:
            if isinstance(layer, WeightTransferConvolution | ScaledLayer):
                layer.activation_dtype = dtype
            else:
                layer.dtype_policy = f"mixed_{dtype}"
        try:
            yield
        finally:
            for layer, policy in zip(layers, policies, strict=True):
                if isinstance(layer, WeightTransferConvolution | ScaledLayer):
                    layer.activation_dtype = None
                else:
                    layer.dtype_policy = policy

    @contextlib.contextmanager
    def for_export(self) -> Iterator[None]:
        """Within it, inference runs plain layers and a classifier of seen classes only.

        Scales of weight transfer and normalisation are folded into the kernels once, on entry. All
        weights are variables of their own, for graphs that outlive the context: an export.
        """
        layers = list(self.transfer_layers())
        for layer in layers:
            layer.plain_weights = PlainWeights(
                *(None if value is None else tf.Variable(value) for value in layer.folded())
            )
        wide, state = (self.classifier, self.correction), self.state()
        self.classifier = self._build_classifier(
            self.classifier.num_old, self.classifier.num_new, self.num_classes
        )
        self.correction = self._build_correction()
        self.set_state(state)
        self._for_export = True
        try:
            yield
        finally:
            self._for_export = False
            self.classifier, self.correction = wide
            for layer in layers:
                layer.plain_weights = None

    def grow(self, num_new: int) -> None:
        """Adds `num_new` classes; weights of the classes so far stay exactly as they are.

        A correction of logits ends here: it is that of one phase (BiC, Eq. 3).

        Raises:
            ValueError: if the classifier has no room for them.
        """
        num_old, capacity = self.num_classes, self.classifier.capacity
        if num_old + num_new > capacity:
            raise ValueError(
                f"{num_old + num_new} classes, and the classifier has room for {capacity}: make "
                "the model with a larger capacity"
            )
        self.set_classes(num_old, num_new)
        self.clear_correction()
        self.classifier.start_new_classes(self._classifier_seed(num_old))

    def set_classes(self, num_old: int, num_new: int) -> None:
        """Makes it a model of other numbers of classes, within its capacity.

        Weights of classes that remain stay; what is left of others is nothing.
        """
        beyond = range(num_old + num_new, self.classifier.capacity)
        self.classifier.set_classes(num_old, num_new)
        for variable in self.classifier.class_variables():
            variable.assign(variable.value.numpy() * (np.arange(variable.shape[-1]) < beyond.start))
        if self.correction:
            self.correction.set(beyond, *NO_CORRECTION)

    def frozen_copy(self) -> "IncrementalModel":
        """Returns a copy that shares no variable with this model and that nothing trains."""
        copy = IncrementalModel(
            self.architecture,
            self.classifier.num_old,
            self.classifier.num_new,
            self.seed,
            self.classifier.capacity,
        )
        copy.copy_from(self)
        copy.backbone.trainable = False
        copy.classifier.trainable = False
        return copy

    def copy_from(self, other: "IncrementalModel") -> None:
        """Takes on the classes, the weights and the transfer of a model of the same capacity."""
        self.classifier.set_classes(other.classifier.num_old, other.classifier.num_new)
        if self.transfer != other.transfer:
            self.set_transfer(other.transfer)
        for mine, theirs in zip(self.variables, other.variables, strict=True):
            mine.assign(theirs.value)

    def state(self) -> dict[str, np.ndarray]:
        """Returns all variables as arrays, by name; of seen classes only."""
        return {v.path: self.seen_part(v, v.value.numpy()).copy() for v in self.variables}

    def seen_part(self, variable: keras.Variable, values: np.ndarray) -> np.ndarray:
        """Returns of `values`, shaped as `variable` is, what belongs to classes seen so far."""
        return values[..., : self.num_classes] if self._is_by_class(variable) else values

    def full_width(self, variable: keras.Variable, values: np.ndarray) -> np.ndarray:
        """Returns the inverse of `seen_part`, with zeros for unseen classes."""
        if not self._is_by_class(variable):
            return values
        margin = [(0, 0)] * (values.ndim - 1) + [(0, variable.shape[-1] - values.shape[-1])]
        return np.pad(values, margin)

    def _is_by_class(self, variable: keras.Variable) -> bool:
        by_class = self.classifier.class_variables()
        if self.correction:
            by_class += self.correction.variables
        return any(variable is one for one in by_class)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of what `state` returns, by name."""
        shapes = {}
        for variable in self.variables:
            shape = tuple(variable.shape)
            by_class = self._is_by_class(variable)
            shapes[variable.path] = (*shape[:-1], self.num_classes) if by_class else shape
        return shapes

    def set_state(self, state: dict[str, np.ndarray], place: str = "a model's arrays") -> None:
        """Sets all variables from what `state` returned for a model of as many classes.

        Args:
            state: arrays by name; others than the model's are left alone.
            place: where they come from, for a message.

        Raises:
            UserError: if an array is missing or has another shape; nothing is set then.
        """
        state = _joined(state)
        check_shapes(state, self.shapes(), place)
        for variable in self.variables:
            variable.assign(self.full_width(variable, state[variable.path]))
        if self.correction:
            unseen = range(self.num_classes, self.classifier.capacity)
            self.correction.set(unseen, *NO_CORRECTION)

    def functional_call(
        self,
        variables: Sequence[keras.Variable],
        values: Sequence[tf.Tensor],
        function: Callable[[], Outputs | tf.Tensor],
    ):
        """Runs `function` with tensors in the place of variables.

        Gradients flow through `values`; the variables themselves are left alone, so that a
        temporary model can be trained without touching this one (Eq. 8).
        """
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return function()


def _joined(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns a state in which earlier versions kept old and new classes' weights apart."""
    new = state.get("classifier/new_kernel")
    if new is None or "classifier/kernel" in state:
        return state
    old = state.get("classifier/old_kernel")
    kernel = new if old is None else np.concatenate([old, new], axis=1)
    return {**state, "classifier/kernel": kernel}
