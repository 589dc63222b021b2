"""What learning exemplars will need of memory, as far as that is known before a run or a phase."""

from collections.abc import Iterator, Sequence

import numpy as np

from mnemonics_tf.bilevel.batches import largest_parts
from mnemonics_tf.bilevel.cost import check_footprint
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.exemplars.budget import make_budget
from mnemonics_tf.models.architecture import Architecture
from mnemonics_tf.models.layer_outputs import layer_bytes
from mnemonics_tf.phases.backbone import trains_backbone
from mnemonics_tf.phases.learn_new import are_few, stay_as_chosen
from mnemonics_tf.settings import Settings


def check_expected_footprint(
    settings: Settings,
    phases: Sequence[Phase],
    counts: np.ndarray,
    architecture: Architecture,
    kept: Sequence[int] = (),
) -> None:
    """Refuses phases of which an outer step that trains the backbone would not fit into memory.

    How many exemplars a budget in bytes holds is not known yet; each stage asks again.

    Args:
        settings: of the run.
        phases: that are to be run, one after the other.
        counts: training images by class, `[K]`.
        architecture: of the run's models.
        kept: exemplars that there are already, by class.

    Raises:
        UserError: names what would make it fit.
    """
    if not trains_backbone(settings) or make_budget(settings.exemplar).counts_bytes:
        return
    sizes = [(0, 0), *_step_sizes(settings, phases, counts, kept)]
    # Exemplars and outer batch pass the backbone one after the other: the most of each counts.
    num_rows, num_outer = map(max, zip(*sizes, strict=True))
    bytes_per_image = layer_bytes(architecture.build_backbone(settings.protocol.seed))
    check_footprint(bytes_per_image, settings.inner, settings.outer, num_rows, num_outer)


def _step_sizes(
    settings: Settings, phases: Sequence[Phase], counts: np.ndarray, kept: Sequence[int] = ()
) -> Iterator[tuple[int, int]]:
    """Yields, stage by stage, how many exemplars learn and on how many images, at the least.

    Args:
        settings: of the run, whose budget counts exemplars.
        phases: of the run.
        counts: training images by class, `[K]`.
        kept: exemplars that there are already, by class.
    """
    outer, adjustment = settings.outer, settings.adjustment
    subsets = adjustment.adjust_subsets
    budget, share = make_budget(settings.exemplar), settings.validation.validation_share
    learns = settings.exemplar.exemplars == "mnemonics"
    old = np.array(kept, np.int64)
    for phase in phases:
        images = counts[phase.new_classes]
        new = np.minimum(budget.quota(phase.num_seen), images)
        if learns and phase.num_seen > 1 and not stay_as_chosen(outer, phase):
            # Beside a few new classes some of the old exemplars judge: those are left out here.
            beside = int(old.sum()) if outer.train_beside_old and not are_few(phase) else 0
            held_out = np.minimum(np.round(share * images).astype(np.int64), images - new)
            yield int(new.sum()) + beside, int((images - held_out).sum()) + beside
        if adjustment.adjust_old_exemplars and len(old) and old.min() >= subsets:
            yield largest_parts(np.repeat(np.arange(len(old)), old), subsets)
        old = np.minimum(budget.quota(phase.num_seen), np.concatenate([old, new]))
