"""What is asked once all parts of a run are made, before it or a further phase begins."""

from collections.abc import Callable, Sequence

import numpy as np

from mnemonics_tf.data.protocol import ClassIncrementalProtocol, Phase
from mnemonics_tf.data.source import DataSource
from mnemonics_tf.errors import UserError
from mnemonics_tf.methods.base import Method
from mnemonics_tf.models.own_backbone import OwnBackbone
from mnemonics_tf.phases import phase0
from mnemonics_tf.phases.asked_for import phases_to_run
from mnemonics_tf.phases.backbone import check_second_order
from mnemonics_tf.phases.checks import check_new_run
from mnemonics_tf.phases.footprint import check_expected_footprint
from mnemonics_tf.phases.workshop import Workshop
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.results import hash_of
from mnemonics_tf.run.workers import any_worker, chiefs_number


def check_run(
    workshop: Workshop,
    method: Method,
    protocol: ClassIncrementalProtocol,
    source: DataSource,
    fingerprint: Callable[[phase0.Origin], str],
) -> None:
    """Refuses what a run should not begin with.

    Args:
        workshop: of the run; all workers ask.
        method: how its model learns.
        protocol: which class comes when.
        source: where images come from.
        fingerprint: of the run's phase 0, had its model a given origin.

    Raises:
        UserError: names what can't begin, and the flags to pass instead.
    """
    settings = workshop.settings
    check_new_run(settings, method, protocol, source)
    check_second_order(settings, workshop.architecture)
    counts = source.training_counts_of(protocol.order)
    check_memory(workshop, phases_to_run(settings, protocol), counts)
    if donor := settings.run.phase0_from:
        phase0.origin_of(RunDirectory(donor), fingerprint, settings)


def check_memory(
    workshop: Workshop, phases: Sequence[Phase], counts: np.ndarray, kept: Sequence[int] = ()
) -> None:
    """Refuses what exemplar learning has no memory for, on this worker or on another.

    Args:
        workshop: of the run; all workers ask.
        phases: that are to be run, one after the other.
        counts: training images by class, `[K]`.
        kept: exemplars that there are already, by class.

    Raises:
        UserError: names what would make it fit.
    """
    refused = None
    try:
        check_expected_footprint(workshop.settings, phases, counts, workshop.architecture, kept)
    except UserError as error:
        refused = error
    if any_worker(workshop.strategy, refused is not None):
        raise refused or UserError(
            "another worker has too little memory for exemplar learning: see what it says"
        )


def refuse_unlike_backbones(workshop: Workshop, own: OwnBackbone) -> None:
    """Refuses to train where workers have opened other models: replicas begin as equals.

    Args:
        workshop: of the run; all workers ask.
        own: what this one has opened.

    Raises:
        UserError: if not all of them are the same.
    """
    number = int(hash_of(own.digests)[:15], 16)
    if any_worker(workshop.strategy, chiefs_number(workshop.strategy, number) != number):
        raise UserError(
            f"--backbone={workshop.settings.model.backbone} is another model on some workers, or "
            "has other weights: give all of them the same file, and code that draws by its seed"
        )
