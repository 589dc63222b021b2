"""What a run is about to do, and once an epoch is done how long its training will take."""

from collections.abc import Mapping, Sequence

from mnemonics_tf.errors import counted
from mnemonics_tf.monitoring.progress import LOGGER, duration

#: seconds below which nobody asks
_WORTH_TELLING = 60


class Outlook:
    """Says, once it can be told, how long the training that is left will take.

    Args:
        images: how many images pass, over all epochs, by stage and phase; exemplars among them as
            far as their number is known beforehand.
    """

    def __init__(self, images: Mapping[tuple[str, int], int]):
        self._images = images
        self._told = False

    def epoch_done(self, stage: str, phase: int, share: float, seconds: float, done: float) -> None:
        """Says it after the first epoch that this process has trained.

        Args:
            stage: name of the stage the epoch was of.
            phase: index of the phase.
            share: of the stage that is done, by earlier processes too.
            seconds: that this process has trained it, graphs' tracing apart.
            done: the share of the stage that it did.
        """
        images = self._images.get((stage, phase), 0)
        if self._told or not images or done <= 0:
            return
        self._told = True
        later = [n for (_, index), n in self._images.items() if index > phase]
        left = images * (1 - share) + sum(later)
        seconds_left = left * seconds / (images * done)
        if seconds_left >= _WORTH_TELLING:
            LOGGER.info(
                "the training that is left takes about %s at this speed; distillation, fine-tunes, "
                "exemplars, tests and exports come on top",
                duration(seconds_left),
            )


def phases_in_words(sizes: Sequence[int]) -> str:
    """Returns how many classes the phases bring: `50 classes, then 5 phases of 10`.

    Args:
        sizes: new classes of each phase.
    """
    base, *later = sizes
    text = counted(base, "class")
    if not later:
        return f"{text} in one phase"
    times = counted(len(later), "phase")
    if len(set(later)) == 1:
        return f"{text}, then {times} of {later[0]}"
    return f"{text}, then {times} of {', '.join(map(str, later))}"
