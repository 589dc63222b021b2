"""What exemplar learning is about to do and, once a step can be measured, what it costs."""

import resource
import sys

import tensorflow as tf

from mnemonics_tf.errors import counted
from mnemonics_tf.monitoring.progress import LOGGER, duration


class Plan:
    """Says what exemplar learning is about to do and, once a step can be measured, what it costs.

    Args:
        name: of what is learned.
        steps: how many outer steps are ahead.
        tracing: how many of the first ones trace graphs, which makes them no measure of the others.
        beside: what takes time between the steps, in words.
    """

    def __init__(self, name: str, steps: int, tracing: int, beside: str = ""):
        self._name = name
        self._steps = steps
        self._tracing = tracing
        self._beside = beside
        self._done = 0

    def announce(self, learning: int, in_a_step: int) -> None:
        """Says what is about to be done.

        Args:
            learning: how many exemplars learn.
            in_a_step: how many train the temporary model of one outer step.
        """
        LOGGER.info(
            "%s: %s, %d in a step; outer steps ahead: %d",
            self._name,
            counted(learning, "exemplar"),
            in_a_step,
            self._steps,
        )

    def step_done(self, seconds: float) -> None:
        """Says, after the step that tells, how long the others will take and what memory they need.

        Args:
            seconds: what the step took.
        """
        self._done += 1
        if self._done != min(self._tracing + 1, self._steps):
            return
        left = self._steps - self._done
        if left:
            time = f"an outer step takes {seconds:.2f} s, the {left} left about "
            time += duration(seconds * left)
            time += f", {self._beside} apart" if self._beside else ""
        else:
            time = f"the last outer step took {seconds:.2f} s"
            time += ", graphs traced in it" if self._done <= self._tracing else ""
        peak = _peak_memory() / 2**30
        LOGGER.info("%s: %s; peak memory so far %.1f GiB", self._name, time, peak)


def _peak_memory() -> int:
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        return max(tf.config.experimental.get_memory_info(gpu.name)["peak"] for gpu in gpus)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
