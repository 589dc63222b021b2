"""The incremental model: a backbone and a classifier that grows with every phase."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from mnemonics_tf.errors import UserError
from mnemonics_tf.models.layers import (
    CLASSIFIERS,
    GrowingClassifier,
    LogitCorrection,
    PlainWeights,
    WeightTransferConvolution,
)
from mnemonics_tf.models.resnet import BACKBONES
from mnemonics_tf.randomness import derive_seed
from mnemonics_tf.run_directory import check_shapes

#: what the inner loop of exemplar learning may train
SCOPES = ("all", "transfer", "classifier")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What it takes to build a model again.

    Attributes:
        backbone: a name in `BACKBONES`.
        depth: number of layers.
        image_shape: `(h, w, c)`.
        classifier: a name in `CLASSIFIERS`.
        corrects_logits: whether a correction for each class follows the classifier (BiC).
    """

    backbone: str
    depth: int
    image_shape: tuple[int, int, int]
    classifier: str
    corrects_logits: bool = False

    def __post_init__(self):
        if self.backbone not in BACKBONES:
            raise UserError(f"--backbone={self.backbone}: known ones are {', '.join(BACKBONES)}")
        BACKBONES[self.backbone].check_depth(self.depth)


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a model says of a batch.

    Attributes:
        features: `[n, d]`.
        logits: `[n, classes]`.
        scale: what a cosine classifier multiplied the cosines by; 1 for a linear one.
    """

    features: tf.Tensor
    logits: tf.Tensor
    scale: tf.Tensor | float = 1.0


class IncrementalModel:
    """Theta_i: a backbone and a growing classifier over the classes seen so far.

    Args:
        architecture: what to build.
        num_old: classes that earlier phases taught.
        num_new: classes of the current phase.
        seed: for initial weights; a class's first weights depend on it and on the class's label
            only.
    """

    def __init__(self, architecture: Architecture, num_old: int, num_new: int, seed: int):
        self.architecture = architecture
        self.seed = seed
        build = BACKBONES[architecture.backbone].build
        self.backbone = build(architecture.image_shape, architecture.depth, seed)
        self.classifier = self._build_classifier(num_old, num_new)
        self.correction = self._build_correction()
        self.transfer = False

    def _build_classifier(self, num_old: int, num_new: int) -> GrowingClassifier:
        seed = derive_seed(self.seed, "classifier", num_old)
        layer = CLASSIFIERS[self.architecture.classifier](num_old, num_new, seed=seed)
        layer.build((None, self.feature_size))
        return layer

    def _build_correction(self) -> LogitCorrection | None:
        if not self.architecture.corrects_logits:
            return None
        layer = LogitCorrection(name="correction")
        layer.build((None, self.num_classes))
        return layer

    @property
    def feature_size(self) -> int:
        """Dimension d of the features."""
        return self.backbone.output_shape[-1]

    @property
    def num_classes(self) -> int:
        """How many classes the logits cover."""
        return self.classifier.num_classes

    def __call__(self, images: tf.Tensor, training: bool = False) -> Outputs:
        """Maps normalised images `[n, h, w, c]` to features and logits."""
        features = self.backbone(images, training=training)
        return Outputs(features, self.logits(features), self.classifier.logit_scale)

    def logits(self, features: tf.Tensor) -> tf.Tensor:
        """Maps features `[n, d]` to logits `[n, classes]`, corrected where the model corrects."""
        logits = self.classifier(features)
        return self.correction(logits) if self.correction else logits

    def correct_logits(self, labels: Sequence[int], gain: float, offset: float) -> None:
        """Sets z_k <- gain z_k + offset for the classes `labels`."""
        for variable, value in ((self.correction.gain, gain), (self.correction.offset, offset)):
            values = variable.value.numpy().copy()
            values[list(labels)] = value
            variable.assign(values)

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
        names = {"gamma", "beta"} | ({"kernel"} if scope == "all" else set())
        if self.transfer:  # before the switch the scales are not in use
            names.add("transfer_scale")
        backbone = [v for v in self.backbone.variables if v.name in names]
        return [*backbone, *self.classifier.variables]

    def convolutions(self) -> Iterator[WeightTransferConvolution]:
        """Yields the backbone's convolutions."""
        for layer in self.backbone.layers:
            if isinstance(layer, WeightTransferConvolution):
                yield layer

    def enable_transfer(self) -> None:
        """Switches weight transfer on: kernels freeze, scales start at 1; outputs do not change."""
        self.transfer = True
        for layer in self.convolutions():
            layer.enable_transfer()

    @contextlib.contextmanager
    def exact_batch_statistics(self) -> Iterator[None]:
        """Within it, training mode takes batch statistics that are right in second order."""
        layers = [layer.normalization for layer in self.convolutions()]
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
        layers = [layer for layer in self.backbone.layers if layer.name != "features"]
        policies = [layer.dtype_policy for layer in layers]
        for layer in layers:
            if isinstance(layer, WeightTransferConvolution):
                layer.activation_dtype = dtype
            else:
                layer.dtype_policy = f"mixed_{dtype}"
        try:
            yield
        finally:
            for layer, policy in zip(layers, policies, strict=True):
                if isinstance(layer, WeightTransferConvolution):
                    layer.activation_dtype = None
                else:
                    layer.dtype_policy = policy

    @contextlib.contextmanager
    def plain_convolutions(self) -> Iterator[None]:
        """Within it, inference runs plain convolutions whose weights were folded once, on entry.

        Scales of weight transfer and normalisation are then part of the kernels, which are
        variables of their own. For graphs that outlive the context: an export.
        """
        layers = list(self.convolutions())
        for layer in layers:
            layer.plain_weights = PlainWeights(*map(tf.Variable, layer.folded()))
        try:
            yield
        finally:
            for layer in layers:
                layer.plain_weights = None

    def grow(self, num_new: int) -> None:
        """Adds `num_new` classes; weights of the classes so far stay exactly as they are."""
        grown = self._build_classifier(self.num_classes, num_new)
        grown.copy_shared(self.classifier)
        self.classifier = grown
        if self.correction:
            grown_correction = self._build_correction()
            grown_correction.copy_shared(self.correction)
            self.correction = grown_correction

    def frozen_copy(self) -> "IncrementalModel":
        """Returns a copy that shares no variable with this model and that nothing trains."""
        copy = IncrementalModel(
            self.architecture, self.classifier.num_old, self.classifier.num_new, self.seed
        )
        if self.transfer:
            copy.enable_transfer()
        copy.set_state(self.state())
        copy.backbone.trainable = False
        copy.classifier.trainable = False
        return copy

    def state(self) -> dict[str, np.ndarray]:
        """Returns all variables as arrays, by name."""
        return {v.path: v.value.numpy().copy() for v in self.variables}

    def set_state(self, state: dict[str, np.ndarray], place: str = "a model's arrays") -> None:
        """Sets all variables from what `state` returned for a model of the same architecture.

        Args:
            state: arrays by name; others than the model's are left alone.
            place: where they come from, for a message.

        Raises:
            UserError: if an array is missing or has another shape; nothing is set then.
        """
        check_shapes(state, {v.path: v.shape for v in self.variables}, place)
        for variable in self.variables:
            variable.assign(state[variable.path])

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
