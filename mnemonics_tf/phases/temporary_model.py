"""The temporary model Theta' of Eq. 7 and 8: our model, as objectives ask for it."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mnemonics_tf.bilevel.cost import images_at_once
from mnemonics_tf.data.augmentation import Augmentation
from mnemonics_tf.models.classifiers import CosineClassifier, first_bound
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.models.layer_outputs import layer_bytes
from mnemonics_tf.randomness import numpy_generator
from mnemonics_tf.settings import InnerSettings


class TemporaryModel:
    """A `Network` around Theta_i, which is read and never changed.

    Args:
        model: Theta_i.
        settings: of the base level.
        augmentation: of training.
        black: normalised value of black pixels, `[c]`, for the augmentation's padding.
        seed: of the run.

    Attributes:
        on_features: whether only the classifier is trained.
        images_at_once: how many images pass the backbone at a time.
    """

    def __init__(
        self,
        model: IncrementalModel,
        settings: InnerSettings,
        augmentation: Augmentation,
        black: np.ndarray,
        seed: int,
    ):
        self.on_features = settings.inner_scope == "classifier"
        self.images_at_once = images_at_once(layer_bytes(model.backbone))
        self._model = model
        self._settings = settings
        self._augmentation = augmentation
        self._black = black
        self._seed = seed
        self._variables = model.scope_variables(settings.inner_scope)
        self._fresh_head = settings.inner_start != "model"
        # A correction was fitted to the trained classifier: it is none of a fresh one's.
        correction = model.correction if self._fresh_head else None
        self._neutral = correction.neutral() if correction else []

    def start(self, *key: str | int) -> list[tf.Tensor]:
        """Returns theta_0: the trained variables' values, with a fresh classifier on demand."""
        classifier = {id(variable) for variable in self._model.classifier.variables}
        generator = numpy_generator(self._seed, *key, "head")
        return [
            fresh_weights(variable, generator, self._model.classifier)
            if self._fresh_head and id(variable) in classifier
            else tf.convert_to_tensor(variable.value)
            for variable in self._variables
        ]

    def augmented(self, images, seed):
        """Returns images as the inner loop sees them."""
        if not self._settings.inner_augmentation:
            return images
        return self._augmentation(images, seed, self._black)

    def encode(self, images):
        """Returns features, with frozen statistics."""
        return self._model.features(images)

    def logits(self, features):
        """Returns what the model's own classifier says of features, as it is."""
        return self._model.logits(features)

    def inner_logits(self, parameters, images, seed):
        """Returns the logits of augmented images, or of features where only those are needed."""

        def logits():
            if self.on_features:
                return self._model.logits(images)
            augmented = self.augmented(images, seed)
            if not self._settings.inner_batch_statistics:
                return self._model(augmented).logits
            with self._model.exact_batch_statistics():
                return self._model(augmented, training=True).logits

        return self._with(parameters, logits)

    def outer_logits(self, parameters, outer):
        """Returns the logits of an outer batch, with frozen statistics."""

        def logits():
            if "feature" in outer:
                return self._model.logits(outer["feature"])
            return self._model(outer["image"]).logits

        return self._with(parameters, logits)

    def _with(self, parameters, logits: Callable[[], tf.Tensor]) -> tf.Tensor:
        """Returns what `logits` gives with parameters in the place of the trained variables."""
        pairs = [*zip(self._variables, parameters, strict=True), *self._neutral]
        variables, values = zip(*pairs, strict=True)
        return self._model.functional_call(variables, values, logits)


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
    bound = first_bound(dimension)
    parts = [
        generator.uniform(-bound, bound, (dimension, count))
        for count in (classifier.num_old, classifier.num_new)
    ]
    unseen = np.zeros((dimension, capacity - classifier.num_classes))
    return tf.constant(np.concatenate([*parts, unseen], axis=1), variable.dtype)
