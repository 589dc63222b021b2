"""Exemplars for any Keras classifier, without a run, phases or flags.

    exemplars, labels, report = mnemonics_tf.learn_exemplars(model, images, labels, per_class=20)

They are chosen among the images, and then learned as a run learns those of new classes (Eq. 7-9).
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from mnemonics_tf.bilevel.learner import Companions, Course, ExemplarLearner, Exemplars, OuterData
from mnemonics_tf.bilevel.objectives import OBJECTIVES
from mnemonics_tf.bilevel.objectives.unrolled_training import UnrolledTraining
from mnemonics_tf.data.augmentation import AUGMENTATIONS
from mnemonics_tf.data.pipeline import Normalization
from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluation.probe import probe_accuracy
from mnemonics_tf.exemplars.selection import SELECTIONS
from mnemonics_tf.keras_arguments import check_images, check_others, settings_of
from mnemonics_tf.keras_checkpoint import LearningCheckpoint
from mnemonics_tf.keras_network import (
    Build,
    Encode,
    KerasNetwork,
    Pixels,
    make_network,
    make_untrained_network,
)
from mnemonics_tf.monitoring.progress import LOGGER, Progress, shown
from mnemonics_tf.paths import user_path
from mnemonics_tf.randomness import numpy_generator
from mnemonics_tf.registry import find
from mnemonics_tf.run.files import check_path
from mnemonics_tf.settings import InnerSettings, Settings
from mnemonics_tf.tracing import TracedFunction

#: images that pass the encoder at a time
_BATCH = 256

#: networks trained from scratch that judge exemplars
_JUDGES = 3


@dataclasses.dataclass(frozen=True)
class Report:
    """How learning went.

    Attributes:
        held_out_accuracy_start: accuracy, on images of each class that were held out, of what the
            chosen exemplars teach before they learn: softmax regression on their features, or with
            `build` a few networks from scratch (mean); None where nothing was held out.
        held_out_accuracy_end: the same of the exemplars returned, rounded to uint8.
        validations: pairs of outer step and held-out accuracy.
        meta_losses: the outer loss (Eq. 7a) of every outer step.
        steps_kept: outer steps that the exemplars returned have gone through; 0 where after all of
            them the accuracy was below that of the start.
        shifts: how far each exemplar is from the image it began as, in grey levels: root mean
            square over its pixels, `[n]`.
        indices: the image that each exemplar began as, rows of `images`, `[n]`.
        stopped: why learning ended before its last step, or None.
        seconds: what all of it took.
    """

    held_out_accuracy_start: float | None
    held_out_accuracy_end: float | None
    validations: tuple[tuple[int, float], ...]
    meta_losses: tuple[float, ...]
    steps_kept: int
    shifts: np.ndarray
    indices: np.ndarray
    stopped: str | None
    seconds: float


class LearnedExemplars(NamedTuple):
    """What `learn_exemplars` returns.

    Attributes:
        images: uint8 `[n, h, w, c]`, class by class, best first within a class.
        labels: theirs, as they were passed, `[n]`.
        report: how learning went.
    """

    images: np.ndarray
    labels: np.ndarray
    report: Report


def learn_exemplars(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    per_class: int = 20,
    preprocess: Callable[[tf.Tensor], tf.Tensor] | None = None,
    *,
    start: str = "herding",
    encoder: keras.Model | Encode | None = None,
    build: Build | None = None,
    augmentation: str = "none",
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> LearnedExemplars:
    """Learns a few images a class from which a classifier learns what it would from all (Eq. 7-9).

    The exemplars begin as real images. In each outer step a temporary model is trained on them from
    a fresh classifier, and they move against the gradient that its loss on `images` has by their
    pixels. Those with the best accuracy on held-out images are returned, rounded to uint8. The
    model is read and never changed.

    Args:
        model: a classifier; functional or Sequential with a Dense layer at its end (a softmax may
            follow), or any other together with `encoder`.
        images: uint8 `[n, h, w, c]`.
        labels: int `[n]`.
        per_class: exemplars of a class; a class of fewer images is kept whole.
        preprocess: maps float32 pixels `[b, h, w, c]` from 0 to 255 to what the model takes, by
            TensorFlow or `keras.ops`, each image by itself; None: the model takes such pixels.
        start: how the images are chosen that exemplars begin as: `herding`, `random`, or
            `package.module:Name`.
        encoder: maps what `preprocess` returns to features `[b, d]`; None: the model up to its
            last Dense layer.
        build: makes an untrained model, cut like `model`, from a seed. Each outer step then trains
            all weights of another one: exemplars for networks that are trained from scratch. Batch
            normalisation keeps the statistics that new models have. None: what is trained, and from
            where, is told by `inner_scope` and `inner_start`.
        augmentation: in the inner loop: `none`, `shift` by a pixel, `crop_mirror` by up to 4, or
            `resized_crop_mirror`.
        seed: of all draws; the same arguments and seed give the same exemplars.
        progress: whether it shows what it does; messages go to the logger `mnemonics_tf`.
        checkpoint: a file, written every minute, from which the same call goes on after a stop; it
            is removed at the end.
        **settings: fields of `InnerSettings`, `OuterSettings` and `ValidationSettings` by name,
            e.g. `outer_steps=100, inner_scope="all"`; docs/exemplar_learning.md tells of them.

    Raises:
        UserError: if the arguments do not fit together, before any work; a message names a setting
            as the flag it is in a run, `--outer_steps` for `outer_steps`.

    Source: Liu et al., "Mnemonics Training: Multi-Class Incremental Learning without Forgetting",
    CVPR 2020, Section 4.3; the classifier alone is trained, from a fresh start in every outer step,
    where the paper trains all of Theta_i from its own weights.
    """
    started = time.monotonic()
    wanted = settings_of(settings, build)
    check_images(images, labels, per_class)
    check_others(seed, preprocess=preprocess, encoder=encoder, build=build)
    choose = find(SELECTIONS, start, "start")
    if augmentation not in AUGMENTATIONS:
        raise UserError(f"augmentation={augmentation!r}: pass one of {', '.join(AUGMENTATIONS)}")
    normalization = _normalization_of(images)
    classes, positions = np.unique(labels, return_inverse=True)
    pixels = Pixels(normalization, preprocess or tf.identity, AUGMENTATIONS[augmentation])
    examples = normalization.normalize(images[:2])
    if checkpoint is not None:
        check_path("checkpoint", user_path(checkpoint))
    inner = wanted.inner
    if build is None:
        network = encoded = make_network(model, encoder, pixels, examples, classes, inner, seed)
    else:
        network = make_untrained_network(build, pixels, examples, len(classes), inner, seed)
        encoded = make_network(model, encoder, pixels, examples, classes, InnerSettings(), seed)
    with shown() if progress else contextlib.nullcontext():
        work = _Work(
            encoded.encode,
            network,
            normalization,
            wanted,
            images,
            positions,
            seed,
            from_scratch=build is not None,
        )
        held_out = work.held_out(per_class)
        rows = work.choose(choose, ~held_out, per_class)
        kept = checkpoint and work.checkpoint(checkpoint, rows, augmentation, model.get_weights())
        course = work.learn(rows, held_out, kept or None)
        learned = normalization.to_uint8(tf.constant(course.best)).numpy()
        report = work.report(course, rows, learned, held_out, started)
        LOGGER.info("%s", _told(report))
        if kept:
            kept.remove()
    return LearnedExemplars(learned, np.asarray(labels)[rows], report)


class _Work:
    """Choosing and learning, once all arguments are found to be sound.

    Args:
        encode: maps normalised pixels to the features that choosing and judging go by.
        network: what exemplars learn for.
        normalization: of the pixels.
        settings: of base level, meta level and validation.
        images: uint8 `[n, h, w, c]`.
        positions: places of the images' classes among all of them, `[n]`.
        seed: of all draws.
        from_scratch: whether they are judged by networks trained from scratch, rather than by
            softmax regression on features.
    """

    def __init__(
        self,
        encode: Encode,
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
        self._encode = TracedFunction("exemplars, encode", encode, reduce_retracing=True)
        self._features = self._features_of_all()

    def held_out(self, per_class: int) -> np.ndarray:
        """Returns which images judge exemplars, bool `[n]`; `per_class` of each class remain."""
        share = self._settings.validation.validation_share
        held_out = np.zeros(len(self._positions), bool)
        for place in range(self._num_classes):
            members = np.flatnonzero(self._positions == place)
            count = max(0, min(round(share * len(members)), len(members) - per_class))
            generator = numpy_generator(self._seed, "held out", place)
            held_out[generator.permutation(members)[:count]] = True
        return held_out

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
        outer, start = self._settings.outer, self._normalization.normalize(self._images[rows])
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
        exemplars = Exemplars(start.numpy(), labels, np.ones(len(rows), bool))
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
        """Returns the score of normalised exemplars, or None where nothing was held out."""
        if not held_out.any():
            return None
        positions = self._positions[held_out]
        if self._from_scratch:
            images = self._normalization.normalize(self._images[held_out])
            return lambda normalized: self._accuracy_from_scratch(
                normalized, labels, images, positions
            )
        features = self._features[held_out]
        return lambda normalized: probe_accuracy(
            self._encoded(normalized), labels, features, positions
        )

    def _accuracy_from_scratch(
        self, normalized: np.ndarray, labels: np.ndarray, images: tf.Tensor, positions: np.ndarray
    ) -> float:
        """Returns the mean accuracy of networks that the base level makes of exemplars."""
        objective = self._objective
        assert isinstance(objective, UnrolledTraining), "build= goes with no other"
        correct = []
        for start in range(_JUDGES):
            trained = objective.trained(tf.constant(normalized), labels, "judge", start)
            for first in range(0, len(positions), _BATCH):
                part = slice(first, first + _BATCH)
                logits = self._network.outer_logits(trained, {"image": images[part]})
                correct.append(np.argmax(logits.numpy(), axis=1) == positions[part])
        return float(np.concatenate(correct).mean())

    def report(
        self,
        course: Course,
        rows: np.ndarray,
        learned: np.ndarray,
        held_out: np.ndarray,
        started: float,
    ) -> Report:
        """Returns how learning went.

        Args:
            course: of it.
            rows: the images that exemplars began as.
            learned: uint8 `[n, h, w, c]`.
            held_out: what they are judged by.
            started: when, on the monotonic clock.
        """
        validate = self._validation(self._positions[rows], held_out)
        stored = self._normalization.normalize(learned).numpy()
        moved = learned.astype(np.float32) - self._images[rows]
        return Report(
            course.validations[0][1] if validate else None,
            validate(stored) if validate else None,
            tuple(course.validations),
            tuple(course.meta_losses),
            course.steps_kept,
            np.sqrt(np.square(moved).mean(axis=(1, 2, 3))),
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
        for first in range(0, len(images), _BATCH):
            batch = images[first : first + _BATCH]
            features.append(self._encode(normalize(batch)).numpy())
            tell(first + len(batch))
        return np.concatenate(features)


def _told(report: Report) -> str:
    """Returns what learning came to, on one line."""
    if report.held_out_accuracy_start is None:
        return f"exemplars: learned in {report.steps_kept} steps; nothing was held out to judge by"
    if not report.steps_kept:
        return (
            "exemplars: learning did not help: held-out accuracy was "
            f"{report.held_out_accuracy_start:.3f} at the start and never higher; they stay as "
            "they were chosen"
        )
    return (
        f"exemplars: held-out accuracy {report.held_out_accuracy_start:.3f} at the start, "
        f"{report.held_out_accuracy_end:.3f} after {report.steps_kept} of "
        f"{len(report.meta_losses)} steps, which are kept"
    )


def _normalization_of(images: np.ndarray) -> Normalization:
    """Returns the normalisation by the images' own mean and deviation, channel by channel."""
    sums, squares = np.zeros(images.shape[-1]), np.zeros(images.shape[-1])
    for first in range(0, len(images), _BATCH):
        batch = images[first : first + _BATCH] / 255.0
        sums += batch.sum(axis=(0, 1, 2))
        squares += np.square(batch).sum(axis=(0, 1, 2))
    count = images.size / images.shape[-1]
    mean = sums / count
    std = np.sqrt(np.maximum(squares / count - np.square(mean), 1e-6))
    return Normalization(tuple(mean), tuple(std))
