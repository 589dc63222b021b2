"""How far stored exemplars have moved since they were first stored, from a run's directory."""

import dataclasses

import numpy as np

from mnemonics_tf.arrays import grey_levels_moved
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.registry import is_own
from mnemonics_tf.reporting.groups import Group
from mnemonics_tf.reporting.runs import Run, seeds_in_words
from mnemonics_tf.run.resume import check_memory


def since_birth(
    memories: list[ExemplarMemory], num_seen: list[int], phase: int, label: int, most: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns exemplars of a class as they were first stored, and as they are in a later phase.

    One class, for all of them at once are many gigabytes where images are large.

    Args:
        memories: at the end of each phase, up to `phase` or further.
        num_seen: classes seen after each phase.
        phase: whose exemplars are asked for.
        label: of the class.
        most: so many of them at most; 0: all.

    Returns:
        Twice uint8 `[n, h, w, c]`, row by row the same exemplars.
    """
    rows = np.flatnonzero(memories[phase].labels == label)[: most or None]
    first = memories[int(np.searchsorted(num_seen, label, side="right"))]
    # A class gives up its last exemplars, so that the first ones remain in their order.
    birth = np.flatnonzero(first.labels == label)[: len(rows)]
    return first.images_at(birth), memories[phase].images_at(rows)


def memories_of(run: Run) -> list[ExemplarMemory] | None:
    """Returns a run's exemplar memories by phase; None for a bare results.json or lost files.

    None for those of a codec of the run's own too: its code would run.

    Raises:
        UserError: if one is damaged, or does not hold what its phase can have left.
    """
    if run.directory is None or is_own(run.settings["codec"]):
        return None
    files = [run.directory.exemplars(record["phase"]) for record in run.phases]
    if not all(file.exists() for file in files):
        return None
    memories = [ExemplarMemory.load(file) for file in files]
    counts = np.zeros(0, int)
    for file, record, memory in zip(files, run.phases, memories, strict=True):
        check_memory(file, memory, record["num_seen"], memories[0].image_shape)
        now = np.bincount(memory.labels)
        if np.any(now[: len(counts)] > counts):
            raise UserError(
                f"{file} holds more exemplars of a class than the phase before: put the right file "
                "back, or pass the run's results.json alone"
            )
        counts = now
    return memories


@dataclasses.dataclass(frozen=True)
class Drift:
    """How far the stored exemplars of a group have moved from their first versions.

    Attributes:
        values: by phase, in grey levels of 255: the root mean square over an image, averaged over
            exemplars and seeds.
        seeds: of the runs that tell, in words.
    """

    values: list[float]
    seeds: list[str]


def pixel_drift(group: Group) -> Drift | None:
    """Returns how far exemplars moved, over the runs that hold them; None where none does."""
    courses, seeds = [], []
    for run in group.runs:
        memories = memories_of(run)
        if memories:
            moved = [_mean_drift(memories, group.num_classes, i) for i in range(len(memories))]
            courses.append(moved)
            seeds.append(seeds_in_words(run.seeds))
    return Drift([float(value) for value in np.mean(courses, axis=0)], seeds) if courses else None


def _mean_drift(memories: list[ExemplarMemory], num_seen: list[int], phase: int) -> float:
    """Returns the mean distance of a phase's exemplars from their first versions."""
    moved = [
        grey_levels_moved(*since_birth(memories, num_seen, phase, label))
        for label in np.unique(memories[phase].labels)
    ]
    return float(np.concatenate(moved).mean())
