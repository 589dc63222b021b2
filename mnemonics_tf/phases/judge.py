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
from mnemonics_tf.exemplars.codecs import loses_nothing
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.monitoring.progress import LOGGER, duration
from mnemonics_tf.phases.new_classes import NewClasses
from mnemonics_tf.phases.rehearsal import leaves_some, rehearsal, rehearsed


@dataclasses.dataclass(frozen=True)
class Judge:
    """What chooses among exemplars while they learn.

    Attributes:
        score: accuracy of normalised images of all exemplars that take part, on held-out images.
        as_stored: whether it scores them as they will be stored, rounded and encoded.
        takes_long: what of it takes long, in words.
    """

    score: Callable[[np.ndarray], float]
    as_stored: bool
    takes_long: str = ""


def find_judge(
    new: NewClasses,
    exemplars: Exemplars,
    stored: Callable[[np.ndarray], ExemplarMemory],
    rows: np.ndarray,
    labels: np.ndarray,
    judging: ImageSet | None,
    beside_old: bool,
) -> Judge | None:
    """Returns what `--validation` asks for, or None where nothing was held out.

    Args:
        new: the classes whose exemplars learn; a rehearsal trains on their candidates and asks for
            their images held out.
        exemplars: of which some learn.
        stored: the memory that normalised images of them would make.
        rows: where in that memory they are.
        labels: of all exemplars in it.
        judging: images that a probe asks for, which may be of old classes too.
        beside_old: whether a probe judges exemplars of old classes with those that learn.
    """
    if new.held_out and _rehearses(new, labels):
        score = rehearsal(
            *(new.workshop, new.phase, new.candidates, new.held_out, new.model, new.stage)
        )
        told = told_one_by_one(score, new)
        return Judge(lambda images: told(stored(images)), as_stored=True, takes_long="rehearsals")
    if judging is None:
        return None
    probe = _probe(new.workshop.evaluator(new.model), exemplars, judging, beside_old)
    if loses_nothing(new.workshop.settings.exemplar.codec):
        return Judge(probe, as_stored=False)
    normalize = new.workshop.pipeline.normalization.normalize
    return Judge(
        lambda images: probe(normalize(stored(images).images_at(rows)).numpy()), as_stored=True
    )


def _rehearses(new: NewClasses, labels: np.ndarray) -> bool:
    """Whether a rehearsal of the next phase judges, and says so where it can't.

    Args:
        new: the classes whose exemplars learn.
        labels: of all exemplars in the memory.
    """
    settings = new.workshop.settings
    if settings.validation.validation != "rehearsal":
        return False
    following = rehearsed(new.phase)
    if not following:
        why = "one new class leaves none to rehearse with"
    elif not leaves_some(settings.training, following, new.candidates, labels):
        why = f"--method={settings.training.method} would hold all exemplars of a class out of one"
    else:
        return True
    LOGGER.info("exemplars: %s: the probe judges instead of a rehearsal", why)
    return False


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
    evaluator: Evaluator, exemplars: Exemplars, held_out: ImageSet, beside_old: bool
) -> Callable[[np.ndarray], float]:
    """Returns the score of the learning exemplars on held-out training images.

    Args:
        evaluator: of Theta_i.
        exemplars: of which some learn.
        held_out: images to be told apart.
        beside_old: whether those that do not learn belong to the exemplars that are judged. Each
            class then counts as much, for there are few images of old ones.
    """
    held_out_features = evaluator.outputs(held_out).features
    judged = np.ones_like(exemplars.learns) if beside_old else exemplars.learns
    labels = exemplars.labels[judged]

    def validate(images: np.ndarray) -> float:
        features = evaluator.features_of_pixels(images[judged])
        return probe_accuracy(features, labels, held_out_features, held_out.labels, beside_old)

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
