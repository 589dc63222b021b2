"""Exemplar learning as a phase uses it: for new classes and for the adjustment of old ones."""

from collections.abc import Callable, Sequence

import numpy as np

from mnemonics_tf.bilevel.cost import check_footprint
from mnemonics_tf.bilevel.learner import Companions, ExemplarLearner, Exemplars
from mnemonics_tf.errors import counted
from mnemonics_tf.exemplars.codecs import loses_nothing
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.models.layer_outputs import layer_bytes
from mnemonics_tf.monitoring.plan import Plan
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.phases.judge import Judge
from mnemonics_tf.phases.pool import InTurn
from mnemonics_tf.phases.state import Stage
from mnemonics_tf.phases.workshop import Workshop
from mnemonics_tf.run.interruption import RunInterruptedError
from mnemonics_tf.settings import OuterSettings


def learner(
    workshop: Workshop,
    network: IncrementalModel,
    members: Sequence[dict[str, np.ndarray]],
    outer: OuterSettings,
    num_rows: int,
    num_outer: int,
) -> ExemplarLearner:
    """Returns a learner around a model whose weights take turns; a step that can't fit is refused.

    Args:
        workshop: of the run.
        network: Theta_i, or the copy that the pool's members use.
        members: of the pool; empty for Theta_i alone.
        outer: of the meta level.
        num_rows: exemplars that an outer step has at most.
        num_outer: images that there are at most to measure them on.

    Raises:
        UserError: if the memory of GPU or machine is too small.
    """
    inner = workshop.settings.inner
    check_footprint(layer_bytes(network.backbone), inner, outer, num_rows, num_outer, begun=True)
    objective = InTurn(workshop.objective(network), network, members)
    validation = workshop.settings.validation
    return ExemplarLearner(
        objective, outer, validation, workshop.valid_range(), workshop.exemplar_seed
    )


def as_exemplars(
    workshop: Workshop, memory: ExemplarMemory, rows: np.ndarray, learns: np.ndarray
) -> Exemplars:
    """Returns exemplars as they learn.

    Args:
        workshop: of the run.
        memory: holds them.
        rows: which of the memory.
        learns: which of the memory learn, bool.
    """
    images = workshop.pipeline.normalization.normalize_on_host(memory.images_at(rows))
    return Exemplars(images, memory.labels[rows], learns[rows])


def with_learned(
    workshop: Workshop, memory: ExemplarMemory, rows: np.ndarray, exemplars: Exemplars
) -> ExemplarMemory:
    """Returns the memory with what was learned, rounded to valid pixels.

    Where a codec loses something, an image that is what the memory gave is not encoded again.
    """
    learning = np.flatnonzero(exemplars.learns)
    learned = workshop.pipeline.normalization.to_uint8_on_host(exemplars.images, learning)
    places = rows[learning]
    if not loses_nothing(memory.codec):
        moved = np.any(learned != memory.images_at(places), axis=(1, 2, 3))
        learned, places = learned[moved], places[moved]
    return memory.with_images(learned, places) if len(places) else memory


def where_one_fits(
    workshop: Workshop, learned: ExemplarMemory, before: ExemplarMemory
) -> ExemplarMemory:
    """Returns exemplars that learned; of classes where not one would fit any more, those before.

    Learned pixels may compress worse than real ones, and no class must be lost by that: not now,
    and not once all classes of the run share the budget.

    Args:
        workshop: of the run, which has a budget.
        learned: of all classes, not yet trimmed to the budget.
        before: the same exemplars before they learned.
    """
    lost = _without_room(workshop, learned)
    return learned.with_classes_of(before, lost) if lost else learned


def _without_room(workshop: Workshop, learned: ExemplarMemory) -> list[int]:
    """Returns the classes of which not one exemplar would fit once all share the budget."""
    if not workshop.budget.counts_bytes:
        return []
    quota = workshop.budget.quota(workshop.num_classes)
    if not np.any(learned.bytes_by_class() > quota):
        return []
    return np.flatnonzero(learned.trimmed(1).bytes_by_class() > quota).tolist()


def tell_where_none_fits(workshop: Workshop, learned: ExemplarMemory) -> None:
    """Says of how many classes `where_one_fits` gives those before back.

    Args:
        workshop: of the run, which has a budget.
        learned: of all classes, as they were learned.
    """
    if not (lost := _without_room(workshop, learned)):
        return
    budget = workshop.budget
    LOGGER.warning(
        "exemplars: of %s not one would fit, as it was learned, into the %d bytes that each of %d "
        "classes has: theirs stay as they were (a run with a larger %s, or another --codec, leaves "
        "room)",
        counted(len(lost), "class"),
        *(budget.quota(workshop.num_classes), workshop.num_classes),
        budget.flag.partition("=")[0],
    )


def companions(
    workshop: Workshop,
    stage: Stage,
    steps: int,
    period: int,
    judge: Judge | None = None,
) -> Companions:
    """Returns progress, validation and checkpoints for a stage of exemplar learning.

    Args:
        workshop: of the run.
        stage: resumes, shows and saves.
        steps: outer steps in all.
        period: how many of the first ones trace graphs, which makes them no measure of the others.
        judge: of the exemplars, or None.
    """
    resume, start = None, 0
    if resumed := stage.resumed:
        start = resumed.position
        resume = (start, resumed.groups["learning"])
    progress = stage.progress(steps, start, unit="step")
    plan = Plan(stage.name, steps - start, period, beside=judge.takes_long if judge else "")
    every = workshop.settings.run.checkpoint_outer_steps

    def report(step: int, metrics: dict[str, float], seconds: float) -> None:
        plan.step_done(seconds)
        progress.update(step, metrics)

    latest: list[Callable[[], None]] = []

    def save(step: int, arrays: Callable[[], dict[str, np.ndarray]]) -> None:
        def write() -> None:
            stage.save_if_due(every, step, step, lambda: {"learning": arrays()})

        latest[:] = [write]
        write()

    def validate(images: np.ndarray) -> float:
        assert judge
        try:
            return judge.score(images)
        except RunInterruptedError:  # a rehearsal was given up
            for write in latest:
                write()
            raise

    if not judge:
        return Companions(report, begin=plan.announce, save=save, resume=resume)
    return Companions(report, validate, judge.prefers_start, plan.announce, save, resume)
