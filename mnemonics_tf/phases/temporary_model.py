"""The temporary model Theta' of Eq. 7 and 8: what it trains, where it starts, its gradient."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from mnemonics_tf.bilevel import sweep
from mnemonics_tf.bilevel.problem import BilevelProblem, MetaGradientResult
from mnemonics_tf.data.augmentation import Augmentation
from mnemonics_tf.models.classifiers import CosineClassifier
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.randomness import numpy_generator, stateless_seed

#: where the inner loop begins
STARTS = ("model", "fresh_head", "pool")


@dataclasses.dataclass(frozen=True)
class BaseLevelSettings:
    """The base level (Eq. 8).

    Attributes:
        scope: what the inner loop trains: `all`, `transfer` or `classifier`.
        estimator: name of the meta-gradient estimator.
        truncated_steps: for the estimator `truncated`.
        start: `model`: Theta_i as it is; `fresh_head`: Theta_i with a new random classifier for
            every outer step; `pool`: drifted copies of it in turn, with fresh classifiers too.
        steps: T.
        learning_rate: alpha_2.
        momentum: of the inner SGD; the paper has none.
        batch_size: exemplars in an inner batch; 0 means all of the outer step's exemplars.
        batch_statistics: normalise by exact batch statistics in the inner loop, not by frozen
            ones.
        augment: augment exemplars in the inner loop as in training.
        gradient_scale: factor on the meta-gradient.
        jit_compile: whether XLA compiles inner, reverse and outer steps.
    """

    scope: str
    estimator: str
    truncated_steps: int
    start: str
    steps: int
    learning_rate: float
    momentum: float
    batch_size: int
    batch_statistics: bool
    augment: bool
    gradient_scale: float = 1.0
    jit_compile: bool = False


class TemporaryModel:
    """Theta', trained on exemplars for a few steps and measured on other data.

    Args:
        model: Theta_i; read, never changed.
        settings: of the base level.
        augmentation: of training.
        black: normalised value of black pixels, `[c]`, for the augmentation's padding.
        seed: of the run.
    """

    def __init__(
        self,
        model: IncrementalModel,
        settings: BaseLevelSettings,
        augmentation: Augmentation,
        black: np.ndarray,
        seed: int,
    ):
        self._model = model
        self._settings = settings
        self._augmentation = augmentation
        self._black = black
        self._seed = seed
        self._variables = model.scope_variables(settings.scope)
        problem = BilevelProblem(
            self._inner_loss,
            self._outer_loss,
            settings.learning_rate,
            settings.momentum,
            settings.gradient_scale,
        )
        self._estimator = sweep.create(
            settings.estimator, problem, settings.truncated_steps, settings.jit_compile
        )
        if settings.scope == "classifier":
            self._estimator = sweep.OnFeatures(self._estimator, self._model.backbone)

    def estimate(
        self,
        exemplars: tf.Tensor,
        labels: np.ndarray,
        learning: np.ndarray,
        outer: dict[str, tf.Tensor],
        *key: str | int,
    ) -> MetaGradientResult:
        """Returns the outer loss and its gradient by the exemplars.

        Args:
            exemplars: normalised images of the outer step, `[n, h, w, c]`.
            labels: `[n]`.
            learning: bool `[n]`, those whose gradient is wanted.
            outer: what the trained model is measured on: `label` `[m]` and either `image`,
                normalised, `[m, h, w, c]`, or, where only the classifier is trained, `feature`
                `[m, d]`. With `weight` `[m]` the loss is the weighted sum, without it the mean.
            *key: names the outer step; decides fresh heads, inner batches and augmentation.
        """
        steps = self._settings.steps
        batches = self._inner_batches(labels, *key)
        arguments = {
            "parameters": self._start(*key),
            "labels": labels,
            "batches": batches,
            "outer_input": outer,
            "learning": learning,
        }
        if self._settings.scope != "classifier":
            seeds = [stateless_seed(self._seed, *key, "inner", t) for t in range(steps)]
            return self._estimator.estimate(
                exemplars=exemplars, step_inputs=tf.stack(seeds), **arguments
            )
        # Features are computed once for all T steps, and so is the augmentation in front of them.
        with tf.GradientTape() as tape:
            tape.watch(exemplars)
            augmented = self._augmented(exemplars, stateless_seed(self._seed, *key, "augment"))
        result = self._estimator.estimate(exemplars=augmented, **arguments)
        gradient = tape.gradient(augmented, exemplars, result.exemplar_gradient)
        return dataclasses.replace(result, exemplar_gradient=gradient)

    def _inner_loss(self, parameters, images, labels, step_input):
        """L_c of Eq. 7b; `images` are features where only the classifier is trained."""

        def logits():
            if self._settings.scope == "classifier":
                return self._model.logits(images)
            augmented = self._augmented(images, step_input)
            if not self._settings.batch_statistics:
                return self._model(augmented).logits
            with self._model.exact_batch_statistics():
                return self._model(augmented, training=True).logits

        logits = self._model.functional_call(self._variables, parameters, logits)
        return _mean_cross_entropy(labels, logits)

    def _outer_loss(self, parameters, outer_input):
        """L_c of Eq. 7a, with frozen statistics as in every test of a model."""

        def logits():
            if "feature" in outer_input:
                return self._model.logits(outer_input["feature"])
            return self._model(outer_input["image"]).logits

        logits = self._model.functional_call(self._variables, parameters, logits)
        if "weight" in outer_input:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(outer_input["label"], logits)
            return tf.reduce_sum(outer_input["weight"] * losses)
        return _mean_cross_entropy(outer_input["label"], logits)

    def _augmented(self, images, seed):
        return self._augmentation(images, seed, self._black) if self._settings.augment else images

    def _start(self, *key: str | int) -> list[tf.Tensor]:
        """Returns theta_0: the trained variables' values, with a fresh classifier on demand."""
        classifier = {id(variable) for variable in self._model.classifier.variables}
        generator = numpy_generator(self._seed, *key, "head")
        return [
            fresh_weights(variable, generator, self._model.classifier)
            if self._settings.start != "model" and id(variable) in classifier
            else tf.convert_to_tensor(variable.value)
            for variable in self._variables
        ]

    def _inner_batches(self, labels: np.ndarray, *key: str | int) -> np.ndarray:
        """Returns class-balanced batches `[T, b]` of rows; every epoch sees every row once."""
        size, steps = self._settings.batch_size or len(labels), self._settings.steps
        if size >= len(labels):
            return np.tile(np.arange(len(labels), dtype=np.int32), (steps, 1))
        generator = numpy_generator(self._seed, *key, "batches")
        per_epoch = len(labels) // size
        epochs = [
            balanced_order(labels, generator)[: per_epoch * size].reshape(per_epoch, size)
            for _ in range(-(-steps // per_epoch))
        ]
        return np.concatenate(epochs)[:steps].astype(np.int32)


class TemporaryModelPool:
    """Weights from which a temporary model starts in turn, another for every outer step.

    Args:
        temporary_model: around `model`.
        model: takes on the weights; None where it has those of the only member all the time.
        members: states of the model.
    """

    def __init__(
        self,
        temporary_model: TemporaryModel,
        model: IncrementalModel | None = None,
        members: Sequence[dict[str, np.ndarray]] = (),
    ):
        self._temporary_model = temporary_model
        self._model = model
        self._members = members

    def __len__(self) -> int:
        return max(1, len(self._members))

    def estimate(
        self,
        exemplars: tf.Tensor,
        labels: np.ndarray,
        learning: np.ndarray,
        outer: dict[str, tf.Tensor],
        *key: str | int,
    ) -> MetaGradientResult:
        """Returns what `TemporaryModel.estimate` of the member whose turn it is returns.

        Args:
            exemplars: as there.
            labels: as there.
            learning: as there.
            outer: as there, but `feature` is that of every member, `[m, members, d]`.
            *key: as there; its last part is the outer step, which decides whose turn it is.
        """
        turn = key[-1] % len(self)
        if "feature" in outer:
            outer = outer | {"feature": outer["feature"][:, turn]}
        if self._members:
            self._model.set_state(self._members[turn])
        return self._temporary_model.estimate(exemplars, labels, learning, outer, *key)


def fresh_weights(variable, generator: np.random.Generator, classifier) -> tf.Tensor:
    """Returns first weights for a classifier's variable, as its layer would draw them.

    The learned scale of a cosine classifier is kept: it belongs to the features. Unseen classes
    get zeros.
    """
    if isinstance(classifier, CosineClassifier) and variable is classifier.scale:
        return tf.convert_to_tensor(variable.value)
    if variable.name == "bias":
        return tf.zeros(variable.shape, variable.dtype)
    dimension, capacity = variable.shape
    bound = 1.0 / np.sqrt(dimension)
    parts = [
        generator.uniform(-bound, bound, (dimension, count))
        for count in (classifier.num_old, classifier.num_new)
    ]
    unseen = np.zeros((dimension, capacity - classifier.num_classes))
    return tf.constant(np.concatenate([*parts, unseen], axis=1), variable.dtype)


def balanced_order(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns the rows in a random order in which every stretch holds all classes about evenly.

    The k-th members (in random order) of all classes come before any (k + 1)-th member.
    """
    order = generator.permutation(len(labels))
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = np.arange(len(members))
    return order[np.argsort(rank[order], kind="stable")]


def _mean_cross_entropy(labels, logits):
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
