r"""Speed of a training step on the CPU, in turns with the same network in PyTorch.

    python -m tools.benchmark_training --pytorch_python=/path/to/python --output=training.json

Every round goes through all subjects, a few steps each (A, B, C, A, B, C), so that a change in the
machine's load meets them alike; a ratio is taken within each round, and the table gives medians.
PyTorch runs in an environment of its own (requirements-pytorch.txt), in a process that waits while
the others compute, with as many threads for an operation.

The `plain` step is what a run gets: the training loop with its input pipeline, from uint8 images in
memory. `bare` is the same loop over one batch that is ready, which is also what PyTorch is given.
The bars, what a step was to reach when it was written, compare `plain`, so that the input
pipeline counts on our side only; where one is missed the table says so. A turn is an epoch of
its own, and pays for what an epoch starts with; the more --steps, the less that weighs.

Measure on a quiet machine: PyTorch's threads wait for each other by spinning, so that with other
work beside it, it takes several times as long, and TensorFlow does not. Where the machine cannot be
quiet, --threads=1 --clock=cpu compares fairly: it counts the processor's time, not the waiting.
"""

import mnemonics_tf.startup  # isort: skip  # noqa: F401 (before TensorFlow)
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from absl import app, flags

from mnemonics_tf.data.augmentation import AUGMENTATIONS
from mnemonics_tf.data.image_set import ArrayImageSet
from mnemonics_tf.data.pipeline import Normalization, Pipeline
from mnemonics_tf.methods.base import cross_entropy
from mnemonics_tf.models.architecture import Architecture
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.paths import user_path
from mnemonics_tf.program import program, refuse_arguments
from mnemonics_tf.run.files import check_output, write_json
from mnemonics_tf.run.hardware import describe_hardware, describe_packages
from mnemonics_tf.training.loop import LossParts, TrainingLoop
from mnemonics_tf.training.optimization import OptimizationSettings

PYTORCH_PROGRAM = pathlib.Path(__file__).with_name("benchmark_training_pytorch.py")
IMAGE_SHAPE = (32, 32, 3)
NUM_CLASSES = 100
NORMALIZATION = Normalization((0.507, 0.487, 0.441), (0.267, 0.256, 0.276))
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4
#: images that the input pipeline alone goes through in a turn, for each step of a turn
PIPELINE_IMAGES_PER_STEP = 1280

#: (faster, slower, least ratio of their images/s or None)
COMPARISONS = (
    ("plain", "pytorch", 1.1),
    ("plain", "pytorch_channels_last", 0.9),
    ("bare", "pytorch", None),
    ("bare", "pytorch_channels_last", None),
    ("plain", "bare", None),
    ("lucir", "plain", 0.75),
    ("transfer", "plain", None),
    ("pipeline", "plain", 20.0),
)

_PYTORCH_PYTHON = flags.DEFINE_string("pytorch_python", None, "A Python that has PyTorch.")
_DEPTH = flags.DEFINE_integer("depth", 32, "Depth of the CIFAR ResNet, 6 n + 2.", 8)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images in a step.", 1)
_STEPS = flags.DEFINE_integer("steps", 8, "Steps in a turn.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of every subject.", 1)
_THREADS = flags.DEFINE_integer("threads", 0, "Threads of an operation; 0: one for each core.", 0)
_CLOCK = flags.DEFINE_enum("clock", "wall", ["wall", "cpu"], "Time that counts.")
_SUBJECTS = flags.DEFINE_list("subjects", None, "Names of what to measure; all by default.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

#: runs one turn of a number of steps and returns images/s
Turn = Callable[[int], float]


@dataclasses.dataclass(frozen=True)
class OneBatch(Pipeline):
    """A pipeline that costs nothing: the same augmented images at every step."""

    ready: tf.Tensor

    def augmented(self, images, epoch_seed, step):
        return self.ready


def random_images(count: int) -> ArrayImageSet:
    """Returns images of noise; neither their pixels nor their labels change the time."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, *IMAGE_SHAPE), np.uint8)
    return ArrayImageSet(images, random.integers(NUM_CLASSES, size=count))


def plain_loss(batch, outputs, old_outputs) -> dict[str, tf.Tensor]:
    """Cross-entropy alone."""
    return {"classification": cross_entropy(batch["label"], outputs.logits)}


def lucir_loss(batch, outputs, old_outputs) -> dict[str, tf.Tensor]:
    """Cross-entropy and less-forget: 1 - cos of the features and the frozen model's."""
    features, old_features = (
        tf.math.l2_normalize(values, axis=1) for values in (outputs.features, old_outputs.features)
    )
    less_forget = 1 - tf.reduce_sum(features * old_features, axis=1)
    return {**plain_loss(batch, outputs, old_outputs), "less_forget": 5 * less_forget}


def build_model() -> IncrementalModel:
    """Returns a model with 50 old and 50 new classes."""
    architecture = Architecture("resnet_cifar", _DEPTH.value, IMAGE_SHAPE, "cosine")
    return IncrementalModel(architecture, NUM_CLASSES // 2, NUM_CLASSES // 2, seed=0)


def training_turn(
    model: IncrementalModel,
    pipeline: Pipeline,
    loss_parts: LossParts = plain_loss,
    old_model: IncrementalModel | None = None,
) -> Turn:
    """Returns a turn of the training loop."""
    batch_size, clock = _BATCH_SIZE.value, CLOCKS[_CLOCK.value]
    settings = OptimizationSettings(
        epochs=1,
        learning_rate=LEARNING_RATE,
        milestones=(),
        decay=1.0,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        decay_normalization=True,
        batch_size=batch_size,
    )
    strategy = tf.distribute.get_strategy()
    loop = TrainingLoop(model, old_model, loss_parts, settings, pipeline, strategy)
    images = random_images(_STEPS.value * batch_size)

    def turn(steps):
        started = clock()
        loop.run_epoch(images.subset(np.arange(steps * batch_size)), 0, "benchmark")
        return steps * batch_size / (clock() - started)

    return turn


def pipeline_turn(pipeline: Pipeline) -> Turn:
    """Returns a turn of the input pipeline alone: nothing waits between two batches."""
    images = random_images(_STEPS.value * PIPELINE_IMAGES_PER_STEP)
    clock = CLOCKS[_CLOCK.value]

    def turn(steps):
        count = steps * PIPELINE_IMAGES_PER_STEP
        batches = pipeline.training_batches(
            images.subset(np.arange(count)), _BATCH_SIZE.value, "benchmark"
        )
        started = clock()
        seen = batches.reduce(0, lambda total, batch: total + tf.shape(batch["image"])[0])
        assert seen.numpy() == count
        return count / (clock() - started)

    return turn


@contextlib.contextmanager
def pytorch_turns(python: str | None, threads: int) -> Iterator[dict[str, Turn]]:
    """Starts PyTorch's process; yields a turn for each memory layout, or none without `python`."""
    if python is None:
        print("Left out: PyTorch, because --pytorch_python names no Python that has it.")
        yield {}
        return
    case = {
        "depth": _DEPTH.value,
        "batch_size": _BATCH_SIZE.value,
        "image_shape": IMAGE_SHAPE,
        "num_classes": NUM_CLASSES,
        "threads": threads,
        "clock": _CLOCK.value,
        "learning_rate": LEARNING_RATE,
        "momentum": MOMENTUM,
        "weight_decay": WEIGHT_DECAY,
    }
    process = subprocess.Popen(
        [python, str(PYTORCH_PROGRAM), json.dumps(case)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def answer():
        line = process.stdout.readline()
        if not line:
            raise SystemExit(
                f"{python} ended with status {process.wait()}; --pytorch_python must name a "
                "Python that has what requirements-pytorch.txt pins"
            )
        return line.strip()

    def turn(layout, steps):
        process.stdin.write(f"{layout} {steps}\n")
        process.stdin.flush()
        return steps * _BATCH_SIZE.value / float(answer())

    with process:  # leaving closes the pipe, which ends the process
        print(f"PyTorch: {answer()}")
        yield {
            "pytorch": functools.partial(turn, "contiguous"),
            "pytorch_channels_last": functools.partial(turn, "channels_last"),
        }


def our_turns() -> dict[str, Turn]:
    """Returns a turn for each way to train, and one for the input pipeline alone."""
    pipeline = Pipeline(NORMALIZATION, AUGMENTATIONS["crop_mirror"], seed=0)
    images = random_images(_BATCH_SIZE.value)
    ready = next(iter(pipeline.training_batches(images, _BATCH_SIZE.value, "ready")))
    old_model, transferred = build_model(), build_model()
    transferred.enable_transfer()
    return {
        "plain": training_turn(build_model(), pipeline),
        "bare": training_turn(
            build_model(),
            OneBatch(NORMALIZATION, AUGMENTATIONS["crop_mirror"], 0, ready["image"]),
        ),
        "lucir": training_turn(build_model(), pipeline, lucir_loss, old_model.frozen_copy()),
        "transfer": training_turn(transferred, pipeline),
        "pipeline": pipeline_turn(pipeline),
    }


def measure(turns: dict[str, Turn]) -> dict[str, list[float]]:
    """Returns images/s of every subject, one number a round, after a warm-up."""
    for turn in turns.values():
        turn(min(2, _STEPS.value))
    speeds = {name: [] for name in turns}
    for _ in range(_ROUNDS.value):
        for name, turn in turns.items():
            speeds[name].append(turn(_STEPS.value))
    return speeds


def compare(speeds: dict[str, list[float]]) -> list[dict]:
    """Returns the ratios of `COMPARISONS` within each round."""
    comparisons = []
    for first, second, bar in COMPARISONS:
        if first in speeds and second in speeds:
            ratios = [a / b for a, b in zip(speeds[first], speeds[second], strict=True)]
            comparisons.append(
                {
                    "ratio": f"{first} / {second}",
                    "median": statistics.median(ratios),
                    "rounds": ratios,
                    "bar": bar,
                    "met": None if bar is None else statistics.median(ratios) >= bar,
                }
            )
    return comparisons


def print_tables(speeds: dict[str, list[float]], comparisons: list[dict]) -> None:
    """Prints medians and extremes of speeds and ratios."""
    print("\n| what | images/s | lowest | highest |\n| --- | --- | --- | --- |")
    for name, values in speeds.items():
        print(f"| {name} | {statistics.median(values):.0f} | {min(values):.0f} ", end="")
        print(f"| {max(values):.0f} |")
    print("\n| ratio | median | lowest | highest | bar |\n| --- | --- | --- | --- | --- |")
    for row in comparisons:
        bar = "-" if row["bar"] is None else f"{row['bar']} {'met' if row['met'] else 'MISSED'}"
        print(f"| {row['ratio']} | {row['median']:.2f} | {min(row['rounds']):.2f} ", end="")
        print(f"| {max(row['rounds']):.2f} | {bar} |")


@program()
def main(arguments: list[str]) -> int:
    """Measures, prints the tables and writes the file."""
    refuse_arguments(arguments)
    if _OUTPUT.value:
        check_output("--output", user_path(_OUTPUT.value))
    hardware = describe_hardware()
    threads = _THREADS.value or hardware["cores"]
    tf.config.set_visible_devices([], "GPU")
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    print(
        f"{hardware['processor']}, {hardware['cores']} cores; {threads} threads an operation; ",
        end="",
    )
    print(f"{_CLOCK.value} time")
    with pytorch_turns(_PYTORCH_PYTHON.value, threads) as pytorch:
        turns = {**our_turns(), **pytorch}
        # What a bar compares lies side by side in a round.
        order = ("bare", "pytorch", "plain", "pytorch_channels_last", *turns)
        wanted = _SUBJECTS.value or turns
        unknown = set(wanted) - set(turns)
        if unknown:
            raise app.UsageError(
                f"--subjects names {sorted(unknown)}; to be had are: {', '.join(turns)}"
            )
        speeds = measure({name: turns[name] for name in order if name in turns and name in wanted})
    comparisons = compare(speeds)
    print_tables(speeds, comparisons)
    if _OUTPUT.value:
        result = {
            "hardware": hardware,
            "packages": describe_packages(),
            "threads": threads,
            "clock": _CLOCK.value,
            "load_average_at_end": os.getloadavg(),
            "steps_in_a_turn": _STEPS.value,
            "batch_size": _BATCH_SIZE.value,
            "depth": _DEPTH.value,
            "images_per_second": speeds,
            "comparisons": comparisons,
        }
        write_json(user_path(_OUTPUT.value), result)
    return 0


if __name__ == "__main__":
    app.run(main)
