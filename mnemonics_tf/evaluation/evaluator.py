"""From a model and a test set to the predictions of both heads."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import tensorflow as tf

from mnemonics_tf import devices
from mnemonics_tf.data.augmentation import mirror
from mnemonics_tf.data.image_set import ArrayImageSet, ImageSet
from mnemonics_tf.data.pipeline import Pipeline, filled
from mnemonics_tf.evaluation import metrics
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.models.incremental import Outputs
from mnemonics_tf.monitoring.progress import watched
from mnemonics_tf.norms import unit_length
from mnemonics_tf.tracing import TracedFunction

Batch = TypeVar("Batch")

#: that a batch is filled up to
_FEWEST_ROWS = 16

#: classes up to which the right one is among five too often to tell anything
_FEWEST_FOR_TOP_5 = 20

#: what turns features into a prediction
HEADS = ("classifier", "nme")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What both heads say of a test set.

    Attributes:
        labels: `[n]`, int32.
        heads: name to predicted labels `[n]`, int32.
        scores: name to what the head predicts by, `[n, classes]`: logits, or similarities; empty
            where predictions alone are known.
    """

    labels: np.ndarray
    heads: dict[str, np.ndarray]
    scores: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def summary(self, groups: Sequence[Sequence[int]]) -> dict[str, dict]:
        """Returns, for each head, accuracy, group accuracies and the confusion matrix.

        Where scores are known and classes are many, the top-5 accuracy too.

        Args:
            groups: labels of the classes of each phase; what lacks test images has no accuracy.
        """
        classes = [label for group in groups for label in group]
        summary: dict[str, dict] = {
            head: {
                "accuracy": metrics.accuracy_on(self.labels, predicted, classes),
                "group_accuracies": metrics.group_accuracies(self.labels, predicted, groups),
                "confusion_matrix": metrics.confusion_matrix(
                    self.labels, predicted, len(classes)
                ).tolist(),
            }
            for head, predicted in self.heads.items()
        }
        if len(classes) > _FEWEST_FOR_TOP_5:
            for head, scores in self.scores.items():
                in_top = metrics.in_top(self.labels, scores, 5)
                top = metrics.accuracy_on(self.labels, np.where(in_top, self.labels, -1), classes)
                summary[head]["top5_accuracy"] = top
        return summary

    def of(self, classes: Sequence[int]) -> "Predictions":
        """Returns what is said of the test images of these classes."""
        rows = np.isin(self.labels, list(classes))
        heads = {head: predicted[rows] for head, predicted in self.heads.items()}
        return Predictions(self.labels[rows], heads)


class Evaluator:
    """Runs one model, traced once, over image sets.

    Args:
        predict: maps normalised images to outputs, without training.
        pipeline: makes batches.
        batch_size: over all replicas.
        strategy: the distribution strategy the model lives in.
        jit_compile: whether XLA compiles it; all batches then have one size.

    Attributes:
        predict_batch: as `predict` was passed.
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
        self._jit_compile = jit_compile

        self.predict_batch = predict
        self._graph: TracedFunction | None = None

        def run_part(batch):
            features, logits, num_classes = self._run(batch["image"])
            count = tf.math.count_nonzero(batch["weight"])  # the rest are placeholders
            return features[:count], logits[:count], num_classes

        # The batch is taken inside the graph, where its size is unknown: one trace serves all.
        def run_next(iterator):
            *outputs, num_classes = strategy.run(run_part, (next(iterator),))
            gathered = [devices.gathered(strategy, parts) for parts in outputs]
            return *gathered, strategy.experimental_local_results(num_classes)[0]

        self._run_next = TracedFunction("evaluate on replicas", run_next)

    def _run(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns features and logits of normalised images, and how many classes are seen."""

        def run(images):
            outputs = self.predict_batch(images)
            return outputs.features, outputs.logits, outputs.num_classes

        if self._graph is None:  # the images' size is known now
            signature = [tf.TensorSpec([None, *images.shape[1:]], images.dtype)]
            jit_compile = True if self._jit_compile else None
            self._graph = TracedFunction(
                "evaluate", run, input_signature=signature, jit_compile=jit_compile
            )
        return self._graph(images)

    def outputs(self, images: ImageSet, mirrored: bool = False) -> Outputs:
        """Returns features `[n, d]` and logits `[n, classes]` as arrays, in the set's order.

        Args:
            images: what to run the model on.
            mirrored: mirror every image left to right.
        """
        return _joined(self._in_batches(images, mirrored), len(images))

    def features(self, images: ImageSet, mirrored: bool = False) -> np.ndarray:
        """Returns the features that `outputs` does, `[n, d]`, and holds no logits meanwhile."""
        return _joined_features(self._in_batches(images, mirrored), len(images))

    def _in_batches(self, images: ImageSet, mirrored: bool) -> Iterator[tuple]:
        if self._strategy.num_replicas_in_sync > 1:
            return self._on_replicas(images, mirrored)
        batches = self._watched(self._batches(images), len(images))
        return self._on_one_device(batches, mirrored)

    def features_of_pixels(self, images: np.ndarray) -> np.ndarray:
        """Returns features `[n, d]` of normalised images, float32 `[n, h, w, c]`."""
        if self._strategy.num_replicas_in_sync > 1:
            rows = {"image": images, "weight": np.ones(len(images), np.float32)}
            with tf.device("/CPU:0"):  # they may be more than a GPU holds
                batches = tf.data.Dataset.from_tensor_slices(rows).batch(self._batch_size)
            return _joined_features(self._iterated(batches, len(images)), len(images))
        outputs = self._on_one_device(self._slices(images), mirrored=False)
        return _joined_features(outputs, len(images))

    def _batches(self, images: ImageSet) -> Iterator[tf.Tensor]:
        """Yields normalised batches; of files while the next ones load."""
        if isinstance(images, ArrayImageSet):
            return map(self._pipeline.normalization.normalize, self._slices(images.images))
        batches = self._pipeline.evaluation_batches(images, self._batch_size)
        return (batch["image"] for batch in batches)

    def _watched(self, batches: Iterable[Batch], count: int) -> Iterator[Batch]:
        """Yields the batches of so many images, and tells how far they are if it takes long."""
        total = -(-count // self._batch_size)
        return watched(batches, total, "images through the model: batch")

    def _slices(self, images: np.ndarray) -> Iterator[np.ndarray]:
        starts = range(0, len(images), self._batch_size)
        return (images[start : start + self._batch_size] for start in starts)

    def _on_one_device(self, batches: Iterator[tf.Tensor], mirrored: bool) -> Iterator[tuple]:
        for batch in batches:
            count = len(batch)
            pixels = mirror(batch) if mirrored else tf.convert_to_tensor(batch)
            pixels = filled(pixels, self._size_of(count))
            features, logits, num_classes = self._run(pixels)
            yield features[:count], logits[:count], num_classes

    def _size_of(self, count: int) -> int:
        """Returns how many rows a batch of `count` images is filled up to.

        XLA compiles for every size anew, and oneDNN keeps code and buffers for every size it has
        met: sets of images grow from phase to phase, and the process would with them. Powers of two
        are few, and it is the last batch of a set that is filled up.
        """
        if self._jit_compile:
            return self._batch_size
        return min(self._batch_size, max(_FEWEST_ROWS, 1 << (count - 1).bit_length()))

    def _on_replicas(self, images: ImageSet, mirrored: bool) -> Iterator[tuple]:
        batches = self._pipeline.evaluation_batches(images, self._batch_size, self._jit_compile)
        if mirrored:
            batches = batches.map(lambda batch: batch | {"image": mirror(batch["image"])})
        return self._iterated(batches, len(images))

    def _iterated(self, batches: tf.data.Dataset, count: int) -> Iterator[tuple]:
        iterator = devices.iterate(self._strategy, batches)
        for _ in self._watched(range(-(-count // self._batch_size)), count):
            yield self._run_next(iterator)

    def class_means(self, memory: ExemplarMemory, num_classes: int) -> np.ndarray:
        """Returns the mean of each class's exemplars, `[classes, d]`, for the nearest-mean head.

        For each exemplar the L2-normalised features of the image and of its left-right mirror
        image; their average over the class, normalised again.

        Source: Rebuffi et al., iCaRL, CVPR 2017, Eq. 2; the mirror image as in its release. LUCIR's
        release has none on ImageNet, and on CIFAR-100 reverses the channels in its place.
        """
        images = memory.as_image_set()
        as_it_is, mirrored = (self.features(images, flip) for flip in (False, True))
        features = unit_length(as_it_is) + unit_length(mirrored)
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
        scores = {"classifier": outputs.logits, "nme": similarities}
        return Predictions(
            images.labels,
            {head: values.argmax(axis=1).astype(np.int32) for head, values in scores.items()},
            scores,
        )


def _joined(batches: Iterable[tuple], count: int) -> Outputs:
    """Returns the outputs of several batches, `count` rows in all, as arrays of seen classes."""
    features, logits = _Rows(count), _Rows(count)
    for batch_features, batch_logits, num_classes in batches:
        features.append(batch_features.numpy())
        logits.append(batch_logits.numpy()[:, : int(num_classes)])
    return Outputs(features.all(), logits.all())


def _joined_features(batches: Iterable[tuple], count: int) -> np.ndarray:
    """Returns the features of several batches, `count` rows in all."""
    features = _Rows(count)
    for batch_features, _, _ in batches:
        features.append(batch_features.numpy())
    return features.all()


class _Rows:
    """An array that is filled batch by batch: parts that wait to be joined would take it twice.

    Args:
        count: of rows in all.
    """

    def __init__(self, count: int):
        self._count = count
        self._filled = 0
        self._rows = np.empty(0)

    def append(self, part: np.ndarray) -> None:
        """Copies the next rows."""
        if not self._filled:  # how long they are is known now
            self._rows = np.empty((self._count, *part.shape[1:]), part.dtype)
        self._rows[self._filled : self._filled + len(part)] = part
        self._filled += len(part)

    def all(self) -> np.ndarray:
        """Returns all rows."""
        assert self._filled == self._count
        return self._rows
