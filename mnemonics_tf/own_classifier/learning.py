"""How exemplars of one's own classifier are chosen, learned (Eq. 7-9) and judged."""

import os
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mnemonics_tf.arrays import grey_levels_moved
from mnemonics_tf.bilevel.learner import Companions, Course, ExemplarLearner, Exemplars, OuterData
from mnemonics_tf.bilevel.objectives import OBJECTIVES
from mnemonics_tf.bilevel.objectives.unrolled_training import UnrolledTraining
from mnemonics_tf.data.pipeline import Normalization
from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluation.probe import probe_accuracy
from mnemonics_tf.monitoring.progress import LOGGER, Progress
from mnemonics_tf.own_classifier.checkpoint import LearningCheckpoint
from mnemonics_tf.own_classifier.network import Encode, KerasNetwork
from mnemonics_tf.own_classifier.report import Report
from mnemonics_tf.randomness import numpy_generator, some_of_each
from mnemonics_tf.registry import find
from mnemonics_tf.settings import Settings
from mnemonics_tf.tracing import TracedFunction

#: networks trained from scratch that judge exemplars
_JUDGES = 3


class Learning:
    """Choosing and learning, once all arguments are found to be sound.

    Args:
        encoded: gives the features that choosing and judging go by.
        network: what exemplars learn for.
        normalization: of the pixels.
        settings: of base level, meta level and validation.
        images: uint8 `[n, h, w, c]`.
        positions: places of the images' classes among all of them, `[n]`.
        seed: of all draws.
        from_scratch: whether they are judged by networks trained from scratch, rather than by
            softmax regression on features.

    Raises:
        UserError: if features of whatever number of images can't be had, or some are no numbers.
    """

    def __init__(
        self,
        encoded: KerasNetwork,
        network: KerasNetwork,
        normalization: Normalization,
        settings: Settings,
        images: np.ndarray,
        positions: np.ndarray,
        seed: int,
        from_scratch: bool,
    ):
        inner, outer = settings.inner, settings.outer
        objective = find(OBJECTIVES, outer.objective, "objective")
        self._objective = objective(network, inner, outer, seed, False)
        self._network = network
        self._normalization = normalization
        self._settings = settings
        self._images = images
        self._positions = positions
        self._seed = seed
        self._from_scratch = from_scratch
        if network.in_float16:
            LOGGER.warning(
                "the model computes in float16, in which the small gradients by pixels become 0, "
                "so that exemplars hardly learn: make it in float32 or mixed_bfloat16"
            )
        self._encode = _as_graph(encoded.encode, normalization.normalize(images[:2]))
        self._at_once = encoded.images_at_once
        self._features = self._features_of_all()

    def held_out(self, per_class: int) -> np.ndarray:
        """Returns which images judge exemplars, bool `[n]`; `per_class` of each class remain."""
        share = self._settings.validation.validation_share
        counts = {
            place: max(0, min(round(share * size), int(size) - per_class))
            for place, size in enumerate(np.bincount(self._positions))
        }
        return some_of_each(self._positions, counts, self._seed, "held out")

    def choose(
        self,
        choose: Callable[[np.ndarray, int, np.random.Generator], np.ndarray],
        candidates: np.ndarray,
        per_class: int,
    ) -> np.ndarray:
        """Returns the images that exemplars begin as, class by class, best first."""
        chosen = []
        for place in range(self._num_classes):
            members = np.flatnonzero((self._positions == place) & candidates)
            generator = numpy_generator(self._seed, "exemplars", place)
            count = min(per_class, len(members))
            chosen.append(members[choose(self._features[members], count, generator)])
        return np.concatenate(chosen)

    def checkpoint(
        self,
        path: str | os.PathLike[str],
        rows: np.ndarray,
        augmentation: str,
        weights: list[np.ndarray],
    ) -> LearningCheckpoint:
        """Returns the file of this very learning."""
        settings = (self._settings.chosen(), self._seed, augmentation, self._from_scratch)
        return LearningCheckpoint(path, settings, rows, self._positions, self._images, *weights)

    def learn(
        self, rows: np.ndarray, held_out: np.ndarray, checkpoint: LearningCheckpoint | None
    ) -> Course:
        """Trains exemplars on all images that are not held out (Eq. 8, 9).

        Args:
            rows: the images that they begin as.
            held_out: what they are judged by.
            checkpoint: from which learning goes on, and to which it saves.
        """
        resume = checkpoint.load() if checkpoint else None
        outer = self._settings.outer
        labels = self._positions[rows]
        learner = ExemplarLearner(
            self._objective,
            outer,
            self._settings.validation,
            (self._normalization.black, self._normalization.white),
            self._seed,
        )
        begin = resume[0] if resume else 0
        progress = Progress("exemplars step", outer.outer_steps, begin)
        companions = Companions(
            report=lambda step, metrics, seconds: progress.update(step, metrics),
            validate=self._validation(labels, held_out),
            save=checkpoint.save if checkpoint else None,
            resume=resume,
        )
        start = self._normalization.normalize_on_host(self._images[rows])
        exemplars = Exemplars(start, labels, np.ones(len(rows), bool))
        return learner.train_new(exemplars, self._outer_data(~held_out), companions, "exemplars")

    def _outer_data(self, candidates: np.ndarray) -> OuterData:
        """Returns what temporary models are measured on: features, where only those are needed."""
        places = np.flatnonzero(candidates)

        def features(rows: np.ndarray) -> dict[str, tf.Tensor]:
            return {"feature": tf.constant(self._features[places[rows]])}

        def images(rows: np.ndarray) -> dict[str, tf.Tensor]:
            return {"image": self._normalization.normalize(self._images[places[rows]])}

        load = features if self._network.on_features else images
        size = self._settings.outer.outer_batch_size
        return OuterData(self._positions[places], load, size, self._seed)

    def _validation(
        self, labels: np.ndarray, held_out: np.ndarray
    ) -> Callable[[np.ndarray], float] | None:
        """Returns the score of exemplars as they are returned, rounded; None if none judges."""
        if not held_out.any():
            return None
        positions = self._positions[held_out]

        def rounded(normalized: np.ndarray) -> np.ndarray:
            returned = self._normalization.to_uint8_on_host(normalized)
            return self._normalization.normalize_on_host(returned)

        if self._from_scratch:
            images = self._images[held_out]
            return lambda normalized: self._accuracy_from_scratch(
                rounded(normalized), labels, images, positions
            )
        features = self._features[held_out]
        return lambda normalized: probe_accuracy(
            self._encoded(rounded(normalized)), labels, features, positions
        )

    def _accuracy_from_scratch(
        self, normalized: np.ndarray, labels: np.ndarray, images: np.ndarray, positions: np.ndarray
    ) -> float:
        """Returns the mean accuracy of networks that the base level makes of exemplars."""
        objective = self._objective
        assert isinstance(objective, UnrolledTraining), "build= goes with no other"
        correct = []
        for start in range(_JUDGES):
            trained = objective.trained(tf.constant(normalized), labels, "judge", start)
            for first in range(0, len(positions), self._network.images_at_once):
                part = slice(first, first + self._network.images_at_once)
                outer = {"image": self._normalization.normalize(images[part])}
                logits = self._network.outer_logits(trained, outer)
                correct.append(np.argmax(logits.numpy(), axis=1) == positions[part])
        return float(np.concatenate(correct).mean())

    def report(
        self, course: Course, rows: np.ndarray, learned: np.ndarray, started: float
    ) -> Report:
        """Returns how learning went.

        Args:
            course: of it.
            rows: the images that exemplars began as.
            learned: uint8 `[n, h, w, c]`.
            started: when, on the monotonic clock.
        """
        scores = dict(course.validations)
        return Report(
            scores.get(0),
            scores.get(course.steps_kept),
            tuple(course.validations),
            tuple(course.meta_losses),
            course.steps_kept,
            grey_levels_moved(self._images[rows], learned),
            rows,
            course.stopped,
            time.monotonic() - started,
        )

    @property
    def _num_classes(self) -> int:
        return int(self._positions.max()) + 1

    def _features_of_all(self) -> np.ndarray:
        """Returns the features of all images `[n, d]`.

        Raises:
            UserError: if some are no numbers.
        """
        progress = Progress("features of image", len(self._images))
        normalize = self._normalization.normalize
        features = self._encoded(self._images, normalize, lambda done: progress.update(done, {}))
        wrong = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if len(wrong):
            raise UserError(
                f"the features of {len(wrong)} of {len(features)} images (first: images[{wrong[0]}]"
                ") are infinite or no numbers: look at the model's weights, and at what "
                "preprocess= makes of that image"
            )
        return features

    def _encoded(
        self,
        images: np.ndarray,
        normalize: Callable[[np.ndarray], tf.Tensor] = tf.constant,
        tell: Callable[[int], None] = lambda done: None,
    ) -> np.ndarray:
        """Returns the features of images `[n, d]`.

        Args:
            images: `[n, h, w, c]`.
            normalize: maps some of them to normalised pixels, which they are otherwise.
            tell: called with the number of images that are done.
        """
        features = []
        for first in range(0, len(images), self._at_once):
            batch = images[first : first + self._at_once]
            features.append(self._encode(normalize(batch)).numpy())
            tell(first + len(batch))
        return np.concatenate(features)


def _as_graph(encode: Encode, examples: tf.Tensor) -> TracedFunction:
    """Returns a function as a graph of any number of images, once it is found to work as one.

    Args:
        encode: maps images to features `[n, d]`.
        examples: two images.

    Raises:
        UserError: if it works on these alone, or not in a graph.
    """
    images = tf.TensorSpec([None, *examples.shape[1:]], examples.dtype)
    graph = TracedFunction("exemplars, encode", encode, input_signature=[images])
    try:
        shapes = [tuple(graph(tf.gather(examples, rows)).shape) for rows in ([0, 1], [0, 1, 0])]
        reason = f"the features of 2 and of 3 images have the shapes {shapes[0]} and {shapes[1]}"
    except (UserError, tf.errors.ResourceExhaustedError):  # tells what it is
        raise
    except Exception as error:  # whatever else the user's code raises
        shapes, reason = [], " ".join(str(error).split())[:300]
    if [shape[0] for shape in shapes] != [2, 3]:
        raise UserError(
            "preprocess= and encoder= work on two images as they are, and not in a graph for "
            f"whatever number of images ({reason}): use tf.where or tf.cond in the place of if on "
            "a tensor, and tf.shape(x)[0] in the place of len(x) and x.shape[0]"
        )
    return graph
