"""Adjustment of the old exemplars to Theta_i (Eq. 10; Algorithm 1, lines 12-16)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from mnemonics_tf.bilevel.batches import largest_parts
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.errors import UserError, counted
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.monitoring import diagnostics
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.phases.learning import (
    as_exemplars,
    companions,
    learner,
    tell_where_none_fits,
    where_one_fits,
    with_learned,
)
from mnemonics_tf.phases.state import Stage
from mnemonics_tf.phases.workshop import Workshop
from mnemonics_tf.settings import AdjustmentSettings

#: what `--adjust_subsets` can't be below
_FEWEST_SUBSETS = 2

#: grey levels; exemplars that move less on average have learned nothing that is left in uint8
_VISIBLE = 0.1

#: grey levels; a smaller --max_shift lets next to no pixel move by what rounding leaves
_FREE_SHIFT = 0.5


def adjust_exemplars(
    workshop: Workshop, phase: Phase, memory: ExemplarMemory, model: IncrementalModel, stage: Stage
) -> tuple[ExemplarMemory, dict[str, Any] | None]:
    """Adjusts the exemplars of old classes to Theta_i.

    Args:
        workshop: of the run.
        phase: which.
        memory: of all classes seen.
        model: Theta_i.
        stage: resumes, shows and saves.

    Returns:
        The memory with the old exemplars as they are now, and what there is to record; None if
        nothing was adjusted.

    Raises:
        UserError: if a class has fewer exemplars than there are subsets and that is not allowed.
    """
    wanted = workshop.settings.adjustment
    if not wanted.adjust_old_exemplars or phase.index == 0:
        return memory, None
    old = memory.labels < phase.num_old
    fewest = int(np.bincount(memory.labels[old], minlength=phase.num_old).min())
    check_adjustment(wanted, fewest)
    if fewest < wanted.adjust_subsets:
        LOGGER.warning(
            "adjustment left out: a class has %s for %d subsets",
            *(counted(fewest, "exemplar"), wanted.adjust_subsets),
        )
        return memory, None
    # Old exemplars alone, as Eq. 10 has it: with E_i beside them, adjusting cost more accuracy.
    rows = np.flatnonzero(old)
    exemplars = as_exemplars(workshop, memory, rows, old)
    outer = dataclasses.replace(
        workshop.settings.outer,
        outer_learning_rate=wanted.adjust_learning_rate,
        outer_steps=wanted.adjust_steps,
    )
    parts = largest_parts(memory.labels[rows], wanted.adjust_subsets)
    course = learner(workshop, model, [], outer, *parts).adjust_old(
        exemplars,
        wanted.adjust_subsets,
        # A subset may have a row more than another: graphs are traced for either number.
        companions(workshop, stage, outer.outer_steps, period=wanted.adjust_subsets),
        stage.name,
        phase.index,
    )
    adjusted = with_learned(workshop, memory, rows, exemplars)
    tell_where_none_fits(workshop, adjusted)
    adjusted = where_one_fits(workshop, adjusted, memory)
    evaluator = workshop.evaluator(model)
    change = diagnostics.measure_change(model, evaluator, memory, adjusted, old)
    metrics = diagnostics.metrics(course, change)
    if metrics["pixel_distance"] < _VISIBLE:
        tight = outer.max_shift < _FREE_SHIFT
        LOGGER.warning(
            "adjustment moved exemplars by %.4f grey levels on average: rounding takes away what "
            "is less than half a level; raise %s",
            metrics["pixel_distance"],
            "--max_shift" if tight else "--adjust_learning_rate or --adjust_steps",
        )
    before = (phase.index - 1) * wanted.adjust_steps
    diagnostics.show(stage.summaries, stage.name, phase.index, course, change, before)
    return adjusted, metrics


def check_adjustment(
    wanted: AdjustmentSettings,
    exemplars_per_class: int,
    ways_to_more: Sequence[str] = (),
    begun: bool = False,
) -> None:
    """Refuses an adjustment that has too few exemplars to split and that may not be left out.

    Args:
        wanted: how exemplars are to be adjusted.
        exemplars_per_class: how many the smallest old class has.
        ways_to_more: advice to keep more exemplars, if that would help.
        begun: whether the run has begun, so that only another one can have other settings.

    Raises:
        UserError: if they are fewer than the subsets.
    """
    enough = exemplars_per_class >= wanted.adjust_subsets
    if enough or not wanted.adjust_old_exemplars or wanted.skip_adjustment_if_too_few:
        return
    ways = list(ways_to_more)
    if exemplars_per_class >= _FEWEST_SUBSETS:
        ways.append(f"lower --adjust_subsets to {exemplars_per_class}")
    ways.append("pass --skip_adjustment_if_too_few or --noadjust_old_exemplars")
    raise UserError(
        f"adjusting old exemplars splits each class into {wanted.adjust_subsets} subsets, but a "
        f"class has {counted(exemplars_per_class, 'exemplar')}: {'in another run: ' * begun}"
        f"{', or '.join(ways)}"
    )
