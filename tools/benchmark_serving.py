"""Compares an exported model with the Keras model it came from: size, latency, throughput.

Run `taskset -c 0 python -m tools.benchmark_serving` for one core. The model is a ResNet-32 with
weight transfer and 100 classes; its weights are random, they change neither size nor time.
"""

import pathlib
import tempfile
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import app, flags

from mnemonics_tf.data.pipeline import Normalization
from mnemonics_tf.export import ExportedClasses, export_phase
from mnemonics_tf.models.incremental import Architecture, IncrementalModel

_DEPTH = flags.DEFINE_integer("depth", 32, "depth of the CIFAR ResNet")
_BATCH_SIZES = flags.DEFINE_multi_integer("batch_size", [1, 64], "images in a request; repeatable")
_SECONDS = flags.DEFINE_float("seconds", 3.0, "how long to measure each row", lower_bound=0.1)

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
        predict=lambda images: model(images),
        classes=ExportedClasses(
            tuple(range(_NUM_CLASSES)), tuple(f"class {i}" for i in range(_NUM_CLASSES))
        ),
        normalization=_NORMALIZATION,
        class_means=None,
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
        "export, session (as served)": lambda images: session.run(fetches, {input_name: images}),
        "export, loaded signature": export_by_signature,
        "model, tf.function": lambda images: compiled(images).numpy(),
        "model, eager": eager,
        "backbone, Keras predict": keras_predict,
    }


def _milliseconds(run: Callable, images: np.ndarray) -> np.ndarray:
    """Returns the times of single calls over the seconds asked for, after a warm-up."""
    for _ in range(3):
        run(images)
    times = []
    end = time.perf_counter() + _SECONDS.value
    while (start := time.perf_counter()) < end:
        run(images)
        times.append(time.perf_counter() - start)
    return 1e3 * np.array(times)


def main(_) -> None:
    """Prints the table."""
    model = _build_model()
    with tempfile.TemporaryDirectory() as directory:
        path = _export(model, pathlib.Path(directory) / "export" / "net")
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        print(f"size of the exported version: {size / 1e6:.2f} MB\n")
        print("| what | batch | median ms | 95th percentile ms | images/s |")
        print("| --- | --- | --- | --- | --- |")
        subjects = _subjects(model, path)
        for batch_size in _BATCH_SIZES.value:
            images = np.random.default_rng(0).integers(
                0, 256, (batch_size, *_IMAGE_SHAPE), np.uint8
            )
            for name, run in subjects.items():
                times = _milliseconds(run, images)
                print(
                    f"| {name} | {batch_size} | {np.median(times):.1f} "
                    f"| {np.percentile(times, 95):.1f} | {1e3 * batch_size / times.mean():.0f} |"
                )


if __name__ == "__main__":
    app.run(main)
