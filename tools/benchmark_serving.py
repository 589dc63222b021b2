"""Compares an exported model with the Keras model it came from: size, latency, throughput.

Run `taskset -c 0 python -m tools.benchmark_serving --output=FILE` for one core. The model is a
ResNet-32 with weight transfer and 100 classes; its weights are random, they change neither size nor
time. All ways take turns, so that a machine that slows down slows all of them.
"""

import mnemonics_tf.startup  # isort: skip  # noqa: F401 (before TensorFlow)
import os
import pathlib
import tempfile
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import app, flags

from mnemonics_tf.data.pipeline import Normalization
from mnemonics_tf.models.architecture import Architecture
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.paths import user_path
from mnemonics_tf.program import program, refuse_arguments
from mnemonics_tf.run import hardware
from mnemonics_tf.run.files import check_output, write_json
from mnemonics_tf.serving.export import export_phase
from mnemonics_tf.serving.signatures import ExportedClasses

_DEPTH = flags.DEFINE_integer("depth", 32, "depth of the CIFAR ResNet")
_BATCH_SIZES = flags.DEFINE_multi_integer("batch_size", [1, 64], "images in a request; repeatable")
_SECONDS = flags.DEFINE_float("seconds", 3.0, "length of a turn", lower_bound=0.1)
_ROUNDS = flags.DEFINE_integer("rounds", 4, "turns of each way", lower_bound=1)
_CLOCK = flags.DEFINE_enum(
    "clock", "wall", ["wall", "cpu"], "cpu: time on the processor, for one core of a busy machine"
)
_OUTPUT = flags.DEFINE_string("output", "", "JSON file for the figures")

_SERVED, _KERAS = "export, session (as served)", "backbone, Keras predict"

_NUM_CLASSES = 100
_IMAGE_SHAPE = (32, 32, 3)
_NORMALIZATION = Normalization((0.507, 0.487, 0.441), (0.267, 0.256, 0.276))


def _build_model() -> IncrementalModel:
    architecture = Architecture("resnet_cifar", _DEPTH.value, _IMAGE_SHAPE, "cosine")
    model = IncrementalModel(architecture, _NUM_CLASSES // 2, _NUM_CLASSES // 2, seed=0)
    model.enable_transfer()
    return model


def _export(model: IncrementalModel, directory: pathlib.Path) -> pathlib.Path:
    return export_phase(
        directory,
        1,
        model,
        classes=ExportedClasses(
            tuple(range(_NUM_CLASSES)), tuple(f"class {i}" for i in range(_NUM_CLASSES))
        ),
        normalization=_NORMALIZATION,
        class_means=np.eye(_NUM_CLASSES, model.feature_size),
        metadata={},
        warmup_images=np.zeros((1, *_IMAGE_SHAPE), np.uint8),
    )


def _subjects(model: IncrementalModel, path: pathlib.Path) -> dict[str, Callable]:
    """Returns ways from uint8 images to outputs, by name; keep them alive while they run."""
    loaded = tf.saved_model.load(str(path))
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], str(path))
    signature = meta_graph.signature_def["serving_default"]
    fetches = {key: output.name for key, output in signature.outputs.items()}
    input_name = signature.inputs["images"].name

    def export_by_signature(images, loaded=loaded):
        return loaded.signatures["serving_default"](images=tf.constant(images))["logits"].numpy()

    def eager(images):
        return model(_NORMALIZATION.normalize(images)).logits.numpy()

    def keras_predict(images):
        features = model.backbone.predict(_NORMALIZATION.normalize(images), verbose=0)
        return model.classifier(features).numpy()

    @tf.function(input_signature=[tf.TensorSpec([None, *_IMAGE_SHAPE], tf.uint8)])
    def compiled(images):
        return model(_NORMALIZATION.normalize(images)).logits

    return {
        _SERVED: lambda images: session.run(fetches, {input_name: images}),
        "export, loaded signature": export_by_signature,
        "model, tf.function": lambda images: compiled(images).numpy(),
        "model, eager": eager,
        _KERAS: keras_predict,
    }


def _milliseconds(run: Callable, images: np.ndarray) -> np.ndarray:
    """Returns the times of single calls over the seconds asked for, after a warm-up."""
    for _ in range(3):
        run(images)
    clock = time.perf_counter if _CLOCK.value == "wall" else time.process_time
    times = []
    end = time.perf_counter() + _SECONDS.value
    while not times or time.perf_counter() < end:
        start = clock()
        run(images)
        times.append(clock() - start)
    return 1e3 * np.array(times)


def _in_turns(subjects: dict[str, Callable], images: np.ndarray) -> dict[str, list[float]]:
    """Returns the median milliseconds of every turn, by name."""
    turns: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(_ROUNDS.value):
        for name, run in subjects.items():
            turns[name].append(float(np.median(_milliseconds(run, images))))
    return turns


def _sizes(model: IncrementalModel, export: pathlib.Path, directory: pathlib.Path) -> dict:
    """Returns bytes of the exported version and of the same weights as Keras saves them."""
    weights = directory / "backbone.weights.h5"
    model.backbone.save_weights(weights)
    classifier = sum(variable.value.numpy().nbytes for variable in model.classifier.variables)
    return {
        "export": sum(file.stat().st_size for file in export.rglob("*") if file.is_file()),
        "keras_weights": weights.stat().st_size + classifier,
    }


@program()
def main(arguments: list[str]) -> int:
    """Prints the table and writes the figures."""
    refuse_arguments(arguments)
    if _OUTPUT.value:
        check_output("--output", user_path(_OUTPUT.value))
    model = _build_model()
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        path = _export(model, directory / "export" / "net")
        figures = {
            "hardware": hardware.describe_hardware(),
            "cores_used": len(os.sched_getaffinity(0)),
            "packages": hardware.describe_packages(),
            "clock": _CLOCK.value,
            "bytes": _sizes(model, path, directory),
            "milliseconds": {},
            "keras_predict_over_export": {},
        }
        subjects = _subjects(model, path)
        print(figures["bytes"])
        print("| what | batch | median ms | lowest | highest |\n| --- | --- | --- | --- | --- |")
        for batch_size in _BATCH_SIZES.value:
            images = np.random.default_rng(0).integers(
                0, 256, (batch_size, *_IMAGE_SHAPE), np.uint8
            )
            turns = _in_turns(subjects, images)
            figures["milliseconds"][str(batch_size)] = turns
            ratios = [b / a for a, b in zip(turns[_SERVED], turns[_KERAS], strict=True)]
            figures["keras_predict_over_export"][str(batch_size)] = ratios
            for way, times in turns.items():
                print(
                    f"| {way} | {batch_size} | {np.median(times):.1f} "
                    f"| {min(times):.1f} | {max(times):.1f} |"
                )
        figures["load_average_at_end"] = list(os.getloadavg())
    if _OUTPUT.value:
        write_json(user_path(_OUTPUT.value), figures)
    return 0


if __name__ == "__main__":
    app.run(main)
