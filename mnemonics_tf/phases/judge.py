"""What judges new exemplars while they learn: a probe, or a rehearsal of the next phase."""

import dataclasses
import itertools
import time
from collections.abc import Callable

import numpy as np

from mnemonics_tf.bilevel.learner import Course, Exemplars
from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.evaluation.evaluator import Evaluator
from mnemonics_tf.evaluation.probe import probe_accuracy
from mnemonics_tf.exemplars.budget import kept_within, rows_within
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.monitoring.progress import LOGGER, duration
from mnemonics_tf.phases.new_classes import NewClasses
from mnemonics_tf.phases.rehearsal import leaves_some, rehearsal, rehearsed


@dataclasses.dataclass(frozen=True)
class Judge:
    """What chooses among exemplars while they learn.

    It judges what the end of the phase will leave: exemplars rounded and encoded, as many as the
    budget holds. Rounding takes a part of what they learned, and learned pixels may compress worse
    than real ones.

    Attributes:
        score: accuracy of normalised images of all exemplars that take part, on held-out images.
        prefers_start: whether exemplars stay as they began where no score is higher. What a
            rehearsal finds no better than real images is not worth leaving them for; a probe's
            scores are coarse, and many are level.
        takes_long: what of it takes long, in words.
    """

    score: Callable[[np.ndarray], float]
    prefers_start: bool = False
    takes_long: str = ""


def rehearses(new: NewClasses, memory: ExemplarMemory) -> bool:
    """Whether a rehearsal of the next phase judges, and says so where it was asked for and can't.

    Args:
        new: the classes whose exemplars learn.
        memory: of all classes, before they learn.
    """
    workshop = new.workshop
    if workshop.settings.validation.validation != "rehearsal" or not new.held_out:
        return False
    following = rehearsed(new.phase)
    training = workshop.settings.training
    labels = memory.labels[rows_within(memory, workshop.budget, new.phase.num_seen)]
    if not following:
        why = "one new class leaves none to rehearse with"
    elif not leaves_some(training, following, new.candidates, labels):
        why = f"--method={training.method} would hold all exemplars of a class out of one"
    else:
        return True
    LOGGER.info("exemplars: %s: the probe judges instead of a rehearsal", why)
    return False


def by_rehearsal(new: NewClasses, stored: Callable[[np.ndarray], ExemplarMemory]) -> Judge:
    """Returns a judge that rehearses the next phase with what the budget leaves.

    Args:
        new: the classes whose exemplars learn; it trains on their candidates and asks for their
            images held out.
        stored: the memory that normalised images of the exemplars would make, not yet trimmed.
    """
    workshop, phase = new.workshop, new.phase
    assert new.held_out, "the caller has looked"
    score = rehearsal(workshop, phase, new.candidates, new.held_out, new.model, new.stage)
    told = told_one_by_one(score, new)
    return Judge(
        lambda images: told(kept_within(stored(images), workshop.budget, phase.num_seen)),
        prefers_start=True,
        takes_long="rehearsals",
    )


def by_probe(
    new: NewClasses,
    exemplars: Exemplars,
    rows: np.ndarray,
    stored: Callable[[np.ndarray], ExemplarMemory],
    judging: ImageSet,
    beside_old: bool,
) -> Judge:
    """Returns a judge that asks a probe of what the budget leaves.

    Args:
        new: the classes whose exemplars learn.
        exemplars: of which some learn.
        rows: where in the memory the exemplars are.
        stored: the memory that normalised images of them would make, not yet trimmed.
        judging: images held out, which may be of old classes too.
        beside_old: whether exemplars of old classes are judged with those that learn.
    """
    probe = _probe(new.workshop.evaluator(new.model), judging, beside_old)
    judged = np.ones_like(exemplars.learns) if beside_old else exemplars.learns

    def left(now: ExemplarMemory) -> np.ndarray:
        """Returns which exemplars that are judged the budget leaves."""
        return judged & np.isin(rows, rows_within(now, new.workshop.budget, new.phase.num_seen))

    normalize = new.workshop.pipeline.normalization.normalize_on_host

    def probe_stored(images: np.ndarray) -> float:
        now = stored(images)
        asked = left(now)
        return probe(normalize(now.images_at(rows[asked])), exemplars.labels[asked])

    return Judge(probe_stored)


def told_one_by_one(
    score: Callable[[ExemplarMemory], float], new: NewClasses
) -> Callable[[ExemplarMemory], float]:
    """Returns the score, which says how many rehearsals there are, which one it was and its time.

    Args:
        score: a rehearsal's.
        new: the classes whose exemplars learn.
    """
    steps = new.workshop.settings.outer.outer_steps
    every = new.workshop.settings.validation.validation_every
    in_all = 1 + -(-steps // every)
    resumed = new.stage.resumed
    done = len(resumed.groups["learning"]["validations"]) if resumed else 0
    numbers = itertools.count(1 + done)

    def told(memory: ExemplarMemory) -> float:
        began = time.monotonic()
        accuracy = score(memory)
        LOGGER.info(
            "exemplars: rehearsal %d of %d: accuracy %.3f on held-out images, in %s",
            *(next(numbers), in_all, accuracy, duration(time.monotonic() - began)),
        )
        return accuracy

    return told


def _probe(
    evaluator: Evaluator, held_out: ImageSet, by_class: bool
) -> Callable[[np.ndarray, np.ndarray], float]:
    """Returns the score of exemplars, normalised images and labels, on held-out training images.

    Args:
        evaluator: of Theta_i.
        held_out: images to be told apart.
        by_class: whether each class counts as much, however few of its images are held out.
    """
    held_out_features = evaluator.features(held_out)

    def validate(images: np.ndarray, labels: np.ndarray) -> float:
        features = evaluator.features_of_pixels(images)
        return probe_accuracy(features, labels, held_out_features, held_out.labels, by_class)

    return validate


def tell_what_helped(course: Course) -> None:
    """Says whether what was learned is kept, by the held-out accuracies that decided it."""
    scores = dict(course.validations)
    steps, start = len(course.meta_losses), course.validations[0][1]
    if course.steps_kept:
        LOGGER.info(
            "exemplars: held-out accuracy %.3f at the start, %.3f after %d of %d steps, which are "
            "kept",
            *(start, scores[course.steps_kept], course.steps_kept, steps),
        )
        return
    later = [score for step, score in course.validations if step > 0]
    LOGGER.warning(
        "exemplars: learning did not help: held-out accuracy was %.3f at the start and at best %s "
        "in %d steps; the exemplars stay as they were chosen",
        *(start, f"{max(later):.3f}" if later else "unknown", steps),
    )
