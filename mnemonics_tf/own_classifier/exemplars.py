"""Exemplars for any Keras classifier, without a run, phases or flags.

    exemplars, labels, report = mnemonics_tf.learn_exemplars(model, images, labels, per_class=20)

They are chosen among the images, and then learned as a run learns those of new classes (Eq. 7-9).
"""

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from mnemonics_tf.bilevel.batches import check_step
from mnemonics_tf.bilevel.cost import check_footprint
from mnemonics_tf.data.augmentation import AUGMENTATIONS
from mnemonics_tf.data.pipeline import Normalization
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.selection import SELECTIONS
from mnemonics_tf.monitoring.progress import LOGGER, shown
from mnemonics_tf.own_classifier.arguments import check_images, check_others, settings_of
from mnemonics_tf.own_classifier.learning import Learning
from mnemonics_tf.own_classifier.network import (
    Build,
    Encode,
    Pixels,
    make_network,
    make_untrained_network,
)
from mnemonics_tf.own_classifier.report import Report, told
from mnemonics_tf.paths import user_path
from mnemonics_tf.registry import find
from mnemonics_tf.run.files import check_output
from mnemonics_tf.settings import InnerSettings

#: images whose pixels are added up at a time
_BATCH = 256


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
    pixels. Those are returned, rounded to uint8, that have the best accuracy on held-out images as
    they are returned. The model is read and never changed.

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
            `resized_crop_mirror`; where it trains the classifier alone, once for an outer step.
        seed: of all draws; the same arguments and seed give the same exemplars.
        progress: whether it shows what it does; messages go to the logger `mnemonics_tf`.
        checkpoint: a file, written every minute, from which the same call goes on after a stop; it
            is removed at the end.
        **settings: fields of `InnerSettings`, `OuterSettings` and `ValidationSettings` by name,
            e.g. `outer_steps=100, inner_scope="all"`; docs/exemplar_learning.md tells of them.
            Where `max_shift` is not passed there is no bound.

    Raises:
        UserError: if the arguments do not fit together, before any work; a message names a setting
            as the flag it is in a run, `--outer_steps` for `outer_steps`. Once the model has run:
            if its features are not finite, or `checkpoint` is of other arguments. While exemplars
            learn: if `build` makes models of another shape, or the disk is full.

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
    check_step(wanted.outer, len(classes))
    pixels = Pixels(normalization, preprocess or tf.identity, AUGMENTATIONS[augmentation])
    examples = normalization.normalize(images[:2])
    if checkpoint is not None:
        check_output("checkpoint", user_path(checkpoint))
        if not isinstance(model, keras.Model):
            raise UserError(
                f"got a {type(model).__name__} as a model, expected a keras.Model, by whose "
                "weights checkpoint= is known again: pass one, or leave out checkpoint="
            )
    inner = wanted.inner
    if build is None:
        network = encoded = make_network(model, encoder, pixels, examples, classes, inner, seed)
    else:
        network = make_untrained_network(build, pixels, examples, len(classes), inner, seed)
        encoded = make_network(model, encoder, pixels, examples, classes, InnerSettings(), seed)
    network.check_second_order(inner, wanted.outer)
    num_exemplars = int(np.minimum(per_class, np.bincount(positions)).sum())
    check_footprint(network.bytes_per_image, inner, wanted.outer, num_exemplars, len(images))
    with shown() if progress else contextlib.nullcontext():
        work = Learning(
            encoded,
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
        learned = normalization.to_uint8_on_host(course.best)
        report = work.report(course, rows, learned, started)
        LOGGER.info("%s", told(report))
        if kept:
            kept.remove()
    return LearnedExemplars(learned, np.asarray(labels)[rows], report)


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
