"""What exemplar learning will cost: what can't fit is refused, the rest is told from one step."""

import resource
import sys

import keras
import numpy as np
import tensorflow as tf

from mnemonics_tf import devices
from mnemonics_tf.errors import UserError
from mnemonics_tf.monitoring.progress import LOGGER, duration
from mnemonics_tf.phases.temporary_model import BaseLevelSettings

#: peak bytes for each byte of layer outputs: a second-order step keeps the activations, their
#: gradients and both again under the outer tape; measured 3.3 with ResNet-32 on a CPU
_SECOND_ORDER = 4.0
_FIRST_ORDER = 2.0


def check_memory(
    backbone: keras.Model, settings: BaseLevelSettings, exemplars: int, outer_batch: int
) -> None:
    """Refuses an outer step whose activations can't fit into the memory of GPU or machine.

    Args:
        backbone: of the temporary model.
        settings: of the base level.
        exemplars: how many train the temporary model in one outer step.
        outer_batch: how many images it is measured on.

    Raises:
        UserError: names the flags that would make it fit.
    """
    image_bytes = 4 * sum(int(np.prod(layer.output.shape[1:])) for layer in backbone.layers)
    batch = min(settings.batch_size or exemplars, exemplars)
    if settings.scope == "classifier":  # features: no activation of the outer batch is kept
        needed = _FIRST_ORDER * image_bytes * min(exemplars, 256)
    else:
        steps = settings.steps if settings.estimator == "unroll" else 1
        inner = _SECOND_ORDER * image_bytes * batch * steps
        needed = max(inner, _FIRST_ORDER * image_bytes * outer_batch)
    available = devices.memory()
    if available is not None and needed > available:
        raise UserError(
            f"one outer step of exemplar learning needs about {needed / 2**30:.1f} GiB and "
            f"{available / 2**30:.1f} GiB are there: lower --inner_batch_size (now {batch}) or "
            f"--outer_batch_size (now {outer_batch}), or use --inner_scope=classifier"
            + (", or --meta_gradient=sweep" if settings.estimator == "unroll" else "")
        )


class Plan:
    """Says what exemplar learning is about to do and, once a step can be measured, what it costs.

    Args:
        name: of what is learned.
        steps: how many outer steps are ahead.
        tracing: how many of the first ones trace graphs, which makes them no measure of the others.
    """

    def __init__(self, name: str, steps: int, tracing: int):
        self._name = name
        self._steps = steps
        self._tracing = tracing
        self._done = 0

    def announce(self, learning: int, in_a_step: int) -> None:
        """Says what is about to be done.

        Args:
            learning: how many exemplars learn.
            in_a_step: how many train the temporary model of one outer step.
        """
        LOGGER.info(
            "%s: %d exemplars, %d in a step; outer steps ahead: %d",
            self._name,
            learning,
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
