"""From a model and a test set to the predictions of both heads."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from mnemonics_tf import devices
from mnemonics_tf.data.augmentation import mirror
from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.pipeline import Pipeline
from mnemonics_tf.evaluation import metrics
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.models.incremental import Outputs

#: what turns features into a prediction
HEADS = ("classifier", "nme")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What both heads say of a test set.

    Attributes:
        labels: `[n]`, int32.
        heads: name to predicted labels `[n]`, int32.
    """

    labels: np.ndarray
    heads: dict[str, np.ndarray]

    def summary(self, groups: Sequence[Sequence[int]]) -> dict[str, dict]:
        """Returns, for each head, accuracy, group accuracies and the confusion matrix."""
        num_classes = sum(len(group) for group in groups)
        return {
            head: {
                "accuracy": metrics.accuracy(self.labels, predicted),
                "group_accuracies": metrics.group_accuracies(self.labels, predicted, groups),
                "confusion_matrix": metrics.confusion_matrix(
                    self.labels, predicted, num_classes
                ).tolist(),
            }
            for head, predicted in self.heads.items()
        }


class Evaluator:
    """Runs one model, compiled once, over image sets.

    Args:
        predict: maps normalised images to outputs, without training.
        pipeline: makes batches.
        batch_size: over all replicas.
        strategy: the distribution strategy the model lives in.
        jit_compile: whether XLA compiles it.
    """

    def __init__(
        self,
        predict: Callable[[tf.Tensor], Outputs],
        pipeline: Pipeline,
        batch_size: int,
        strategy: tf.distribute.Strategy,
        jit_compile: bool = False,
    ):
        self._pipeline = pipeline
        self._batch_size = batch_size
        self._strategy = strategy

        def run(images):
            outputs = predict(images)
            return outputs.features, outputs.logits

        if jit_compile:
            run = tf.function(run, jit_compile=True)

        def run_part(batch):
            outputs = run(batch["image"])
            if strategy.num_replicas_in_sync == 1:
                return outputs
            count = tf.math.count_nonzero(batch["weight"])  # a part may be a placeholder
            return [output[:count] for output in outputs]

        # The batch is taken inside the graph, where its size is unknown: one trace serves all.
        def run_next(iterator):
            outputs = strategy.run(run_part, (next(iterator),))
            return [devices.gathered(strategy, parts) for parts in outputs]

        self._run_next = tf.function(run_next)

    def outputs(self, images: ImageSet, mirrored: bool = False) -> Outputs:
        """Returns features `[n, d]` and logits `[n, classes]` as arrays, in the set's order.

        Args:
            images: what to run the model on.
            mirrored: mirror every image left to right.
        """
        batches = self._pipeline.evaluation_batches(images, self._batch_size)
        if mirrored:
            batches = batches.map(lambda batch: batch | {"image": mirror(batch["image"])})
        return self._outputs(batches, len(images))

    def features_of_pixels(self, images: np.ndarray) -> np.ndarray:
        """Returns features `[n, d]` of normalised images, float32 `[n, h, w, c]`."""
        rows = {"image": images, "weight": np.ones(len(images), np.float32)}
        batches = tf.data.Dataset.from_tensor_slices(rows).batch(self._batch_size)
        return self._outputs(batches, len(images)).features

    def _outputs(self, batches: tf.data.Dataset, count: int) -> Outputs:
        iterator = devices.iterate(self._strategy, batches)
        features, logits = [], []
        for _ in range(-(-count // self._batch_size)):
            batch_features, batch_logits = self._run_next(iterator)
            features.append(batch_features.numpy())
            logits.append(batch_logits.numpy())
        return Outputs(np.concatenate(features), np.concatenate(logits))

    def class_means(self, memory: ExemplarMemory, num_classes: int) -> np.ndarray:
        """Returns the mean of each class's exemplars, `[classes, d]`, for the nearest-mean head.

        For each exemplar the L2-normalised features of the image and of its left-right mirror
        image; their average over the class, normalised again.

        Source: Rebuffi et al., iCaRL, CVPR 2017, Eq. 2; the mirror image as in LUCIR's protocol.
        """
        images = memory.as_image_set()
        sides = [self.outputs(images, mirrored).features for mirrored in (False, True)]
        features = sum(unit_length(side) for side in sides)
        means = np.stack([features[memory.labels == k].mean(axis=0) for k in range(num_classes)])
        return unit_length(means)

    def predict(self, images: ImageSet, class_means: np.ndarray) -> Predictions:
        """Returns the predictions of both heads for a test set.

        Args:
            images: the test set, labels in class order.
            class_means: `[classes, d]`, normalised.
        """
        outputs = self.outputs(images)
        # Nearest of unit vectors: the largest inner product.
        similarities = unit_length(outputs.features) @ class_means.T
        return Predictions(
            images.labels,
            {
                "classifier": outputs.logits.argmax(axis=1).astype(np.int32),
                "nme": similarities.argmax(axis=1).astype(np.int32),
            },
        )


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors divided by their L2 norms along the last axis."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
