"""The model-level loop: many steps in one call of a graph that all phases share."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.draw import Draw, epoch_size
from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.pipeline import Pipeline
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.tracing import TRACES, TracedFunction
from mnemonics_tf.training.feed import Feed, open_feed
from mnemonics_tf.training.optimization import OptimizationSettings
from mnemonics_tf.training.step import METRICS, LossParts, TrainingStep

#: what a call of the graph is meant to take; between calls a run reports, saves and may stop
SECONDS_PER_CALL = 5.0


class Speed:
    """How many images a second pass through an epoch's calls; those that trace count if all do."""

    def __init__(self):
        self._images = {False: 0, True: 0}
        self._seconds = {False: 0.0, True: 0.0}

    @contextlib.contextmanager
    def of(self, images: int) -> Iterator[None]:
        """Measures one call, through which so many images pass."""
        traces, started = TRACES.counts.total(), time.perf_counter()
        yield
        traced = TRACES.counts.total() > traces
        self._images[traced] += images
        self._seconds[traced] += time.perf_counter() - started

    @property
    def images_per_second(self) -> float:
        """Over the calls so far."""
        traced = not self._images[False]
        return self._images[traced] / max(self._seconds[traced], 1e-9)


@dataclasses.dataclass(frozen=True)
class Moment:
    """Where training stands between two calls.

    Attributes:
        epoch: from 0.
        step: steps of the epoch that are done.
        steps: how many it has.
        totals: metrics of the epoch so far, added up; what resuming within it begins with.
        metrics: means of the epoch so far: parts of the loss, `loss`, `accuracy` on the augmented
            training images, `learning_rate` and `images_per_second`.
    """

    epoch: int
    step: int
    steps: int
    totals: np.ndarray
    metrics: dict[str, float]

    @property
    def ends_epoch(self) -> bool:
        """Whether it is the last one of its epoch."""
        return self.step == self.steps

    @property
    def position(self) -> int:
        """Steps done since the stage began."""
        return self.epoch * self.steps + self.step


class Pace:
    """How many steps go into a call.

    Args:
        agree: makes all workers use one number.
    """

    def __init__(self, agree: Callable[[int], int]):
        self._agree = agree
        self._seconds_per_step: float | None = None

    def steps(self, left: int) -> int:
        """Returns how many of the steps that are left to take next; one, until they are timed."""
        steps = 1
        if self._seconds_per_step:
            steps = max(1, int(SECONDS_PER_CALL / self._seconds_per_step))
        return self._agree(min(steps, left))

    def measured(self, steps: int, seconds: float) -> None:
        """Learns from a call that traced nothing."""
        self._seconds_per_step = seconds / steps


class TrainingLoop:
    """Trains a model on image sets, stage after stage, by one graph for each kind of feed.

    Args:
        model: what is trained, living in the strategy's scope.
        old_model: the frozen model of the phase before, or None.
        loss_parts: the loss, by part and example.
        settings: of the optimiser.
        pipeline: makes batches.
        strategy: the distribution strategy.
        mixed_precision: `off`, `bfloat16` or `float16`.
        jit_compile: whether XLA compiles the step, on one device.
        kind: what is trained, for counting traces.
        agree: makes all workers use one number of steps.

    Attributes:
        settings: of the optimiser; the schedule may change from stage to stage.
    """

    def __init__(
        self,
        model: IncrementalModel,
        old_model: IncrementalModel | None,
        loss_parts: LossParts,
        settings: OptimizationSettings,
        pipeline: Pipeline,
        strategy: tf.distribute.Strategy,
        mixed_precision: str = "off",
        jit_compile: bool = False,
        kind: str = "train",
        agree: Callable[[int], int] = int,
    ):
        self.settings = settings
        self._step = TrainingStep(
            model,
            old_model,
            loss_parts,
            settings,
            strategy,
            mixed_precision,
            jit_compile,
        )
        self._pipeline = pipeline
        self._strategy = strategy
        self._kind = kind
        self._pace = Pace(agree)
        self._graphs: dict[str, TracedFunction] = {}

    def start_stage(self, settings: OptimizationSettings) -> None:
        """Begins a stage with another schedule, and without velocity.

        Args:
            settings: of the optimiser, equal but for epochs, rates and milestones.
        """
        self.settings = settings
        self._step.start()

    def run_epoch(self, images: ImageSet, epoch: int, *key: str | int) -> dict[str, float]:
        """Trains one epoch and returns its metrics, as the last `Moment` of `run` has them.

        Args:
            images: the training set.
            epoch: from 0; decides the learning rate, and with `key` shuffling and augmentation.
            *key: names the stage, e.g. `("train", phase)`.
        """
        *_, last = self.run(images, range(epoch, epoch + 1), key)
        return last.metrics

    def run(
        self,
        images: ImageSet,
        epochs: range,
        key: Sequence[str | int],
        first_step: int = 0,
        totals: np.ndarray | None = None,
        draw: Draw | None = None,
    ) -> Iterator[Moment]:
        """Trains for some epochs, and yields after each call of the graph.

        Args:
            images: the training set.
            epochs: which; their numbers decide learning rate, shuffling and augmentation.
            key: names the stage, e.g. `("train", phase)`.
            first_step: steps of the first epoch that are done already.
            totals: metrics of these steps.
            draw: which images each epoch sees; None: all.

        Raises:
            FloatingPointError: if the loss so far, or in float16 the gradients, are not finite.
        """
        if not epochs:
            return
        batch_size = self.settings.batch_size
        size = epoch_size(images, draw)
        steps = -(-size // batch_size)
        feed = open_feed(
            self._pipeline,
            images,
            batch_size,
            tuple(key),
            epochs,
            first_step,
            self._strategy,
            self._step.compiled,
            draw,
        )
        totals = np.zeros(2 * METRICS) if totals is None else totals
        for epoch in epochs:
            learning_rate = self.settings.learning_rate_at(epoch)
            self._step.set_learning_rate(learning_rate)
            arguments = feed.epoch(epoch)
            step, first_step = first_step, 0
            speed = Speed()
            while step < steps:
                count = self._pace.steps(steps - step)
                with speed.of(min((step + count) * batch_size, size) - step * batch_size):
                    totals = self._call(feed, arguments, step, count, totals)
                step += count
                metrics = {
                    **self._step.means(totals),
                    "learning_rate": learning_rate,
                    "images_per_second": speed.images_per_second,
                }
                if not np.isfinite(metrics["loss"]):
                    raise FloatingPointError(
                        f"the loss is {metrics['loss']} in epoch {epoch} of "
                        f"{'/'.join(map(str, key))} at learning rate {learning_rate}: "
                        "lower the learning rate"
                    )
                if self._step.is_stuck:
                    raise FloatingPointError(
                        f"gradients are not finite in epoch {epoch} of {'/'.join(map(str, key))}, "
                        "though the loss is: look for a square root or a norm at zero in it, or "
                        "train without --mixed_precision=float16"
                    )
                yield Moment(epoch, step, steps, totals, metrics)
            totals = np.zeros(2 * METRICS)

    def state(self) -> dict[str, np.ndarray]:
        """Returns what steps change beside the model as arrays, for a checkpoint."""
        return self._step.state()

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Goes back to what `state` returned."""
        self._step.set_state(state)

    def _call(self, feed: Feed, arguments, step: int, count: int, totals) -> np.ndarray:
        """Takes `count` steps from `step` of an epoch on; returns the totals with theirs."""
        traces, started = TRACES.counts.total(), time.perf_counter()
        numbers = (tf.constant(number, tf.int64) for number in (step, count))
        graph = self._graph(feed)
        totals = graph(arguments, *numbers, tf.constant(totals, tf.float64)).numpy()
        if TRACES.counts.total() == traces:
            self._pace.measured(count, time.perf_counter() - started)
        return totals

    def _graph(self, feed: Feed) -> TracedFunction:
        if feed.kind in self._graphs:
            return self._graphs[feed.kind]

        batch = feed.batch  # and not the feed, whose data goes at the end of the stage

        def run_steps(arguments, first, count, totals):
            last = first + count

            def take(step, totals):
                metrics = self._step.take(batch(arguments, step))
                return step + 1, totals + tf.cast(metrics, tf.float64)

            return tf.while_loop(lambda step, _: step < last, take, (first, totals))[1]

        signature = None
        if feed.signature:
            numbers = [tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.int64)]
            totals = tf.TensorSpec([2 * METRICS], tf.float64)
            signature = [feed.signature, *numbers, totals]
        graph = TracedFunction(f"{self._kind}, {feed.kind}", run_steps, input_signature=signature)
        self._graphs[feed.kind] = graph
        return graph
