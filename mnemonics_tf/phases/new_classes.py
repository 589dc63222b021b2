"""The new classes of a phase, for which exemplars are made, and what their making takes."""

import dataclasses

from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.phases.state import Stage
from mnemonics_tf.phases.workshop import Workshop


@dataclasses.dataclass(frozen=True)
class NewClasses:
    """The new classes of a phase, whose exemplars learn.

    Attributes:
        workshop: of the run.
        phase: which.
        candidates: D_i but for what judges; exemplars are chosen from it and learn on it.
        held_out: images of D_i that judge, or None.
        model: Theta_i; read only.
        stage: resumes, shows and saves.
    """

    workshop: Workshop
    phase: Phase
    candidates: ImageSet
    held_out: ImageSet | None
    model: IncrementalModel
    stage: Stage
