"""Computes the same on one device and on two: python -m tests.two_devices OUT.npz TASK ...

A process of its own: logical devices are configured before TensorFlow's first operation.
"""

import sys

import numpy as np
import tensorflow as tf

from mnemonics_tf import devices
from mnemonics_tf.bilevel.objectives import OBJECTIVES
from mnemonics_tf.data.augmentation import AUGMENTATIONS
from mnemonics_tf.data.image_set import ArrayImageSet
from mnemonics_tf.data.pipeline import Normalization, Pipeline
from mnemonics_tf.evaluation.evaluator import Evaluator
from mnemonics_tf.methods.base import cross_entropy
from mnemonics_tf.methods.lucir import LUCIR
from mnemonics_tf.models.architecture import Architecture
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.phases.replicated import Replicated
from mnemonics_tf.phases.temporary_model import TemporaryModel
from mnemonics_tf.settings import InnerSettings, OuterSettings, TrainingSettings
from mnemonics_tf.training.loop import TrainingLoop
from mnemonics_tf.training.optimization import OptimizationSettings
from tests.small_network import NAME

NORMALIZATION = Normalization((0.5,), (0.5,))
PIPELINE = Pipeline(NORMALIZATION, AUGMENTATIONS["shift"], 0)


def make_images(count: int) -> ArrayImageSet:
    labels = np.arange(count) % 5
    noise = np.random.default_rng(0).integers(0, 60, (count, 8, 8, 1))
    return ArrayImageSet((noise + 40 * labels[:, None, None, None]).astype(np.uint8), labels)


def make_models(strategy):
    """A model that has learned 3 classes and gets 2 more, and the one before."""
    with strategy.scope():
        model = IncrementalModel(Architecture(NAME, 8, (8, 8, 1), "cosine"), 0, 3, 0)
        old = model.frozen_copy()
        model.grow(2)
    return model, old


def train(strategy, mixed_precision: str) -> dict[str, np.ndarray]:
    """Two epochs in batches of 8, 8 and 1: the last leaves a replica without images of its own.

    In float32 with LUCIR's loss, which counts the old images of all replicas.
    """
    model, old = make_models(strategy)
    method = LUCIR(TrainingSettings())
    settings = OptimizationSettings(2, 0.05, (), 0.1, 0.9, 5e-4, False, 8)

    def loss_parts(batch, outputs, old_outputs):
        if old_outputs is None:
            return {"classification": cross_entropy(batch["label"], outputs.logits)}
        return method.loss_parts(batch, outputs, old_outputs)

    old = old if mixed_precision == "off" else None
    loop = TrainingLoop(model, old, loss_parts, settings, PIPELINE, strategy, mixed_precision)
    metrics = [loop.run_epoch(make_images(17), epoch, "train") for epoch in range(2)]
    numbers = {
        f"{name}{epoch}": value
        for epoch, values in enumerate(metrics)
        for name, value in values.items()
        if name != "images_per_second"
    }
    momentum = {f"optimizer/{name}": value for name, value in loop.state().items()}
    return {**model.state(), **momentum, **numbers}


def evaluate(strategy) -> dict[str, np.ndarray]:
    model, _ = make_models(strategy)
    outputs = Evaluator(model, PIPELINE, 8, strategy).outputs(make_images(17))
    return {"features": outputs.features, "logits": outputs.logits}


def trained(strategy) -> dict[str, np.ndarray]:
    """Which classes' weights are trained, in the mean over replicas."""
    model, _ = make_models(strategy)
    model.classifier.freeze_old()
    found = {"frozen": _trained_columns(strategy, model)}
    with model.classifier.all_trained():
        found["within"] = _trained_columns(strategy, model)
    return {**found, "afterwards": _trained_columns(strategy, model)}


def _trained_columns(strategy, model: IncrementalModel) -> np.ndarray:
    columns = tf.function(lambda: strategy.run(model.classifier.trained_columns))()
    return strategy.reduce(tf.distribute.ReduceOp.MEAN, columns, axis=None).numpy()[:5]


def meta_step(
    strategy, scope: str, batch_statistics: bool = False, name: str = "unrolled_training"
) -> dict[str, np.ndarray]:
    """A meta-gradient whose outer batch of 7 does not divide evenly."""
    model, _ = make_models(strategy)
    inner = InnerSettings(inner_scope=scope, inner_steps=3, inner_batch_statistics=batch_statistics)
    network = TemporaryModel(model, inner, AUGMENTATIONS["shift"], NORMALIZATION.black, 0)
    objective = OBJECTIVES[name](network, inner, OuterSettings(), 0)
    if strategy.num_replicas_in_sync > 1:
        objective = Replicated(objective, strategy)
    images = make_images(17)
    pixels = NORMALIZATION.normalize(images.images)
    outer = {"label": tf.constant(images.labels[10:])}
    if scope == "classifier":
        outer["feature"] = model.backbone(pixels[10:])
    else:
        outer["image"] = pixels[10:]
    if name == "anchored":
        outer["row"] = tf.range(1, 8)
    value, gradient = objective.value_and_gradient(
        pixels[:10], images.labels[:10], np.ones(10, bool), outer, "exemplars", 0
    )
    gradient = gradient.numpy()
    return {"loss": value.numpy(), "gradient": gradient / np.abs(gradient).max()}


TASKS = {
    "train": lambda strategy: train(strategy, "off"),
    "trained": trained,
    "evaluate": evaluate,
    "meta_step_all": lambda strategy: meta_step(strategy, "all"),
    "meta_step_classifier": lambda strategy: meta_step(strategy, "classifier"),
    "class_means": lambda strategy: meta_step(strategy, "all", name="class_means"),
    "anchored": lambda strategy: meta_step(strategy, "all", name="anchored"),
}
LONGER_TASKS = {
    "train_float16": lambda strategy: train(strategy, "float16"),
    "meta_step_statistics": lambda strategy: meta_step(strategy, "all", batch_statistics=True),
}


def main(path: str, *tasks: str) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategies = {"one": tf.distribute.get_strategy(), "two": devices.create_strategy("mirrored")}
    assert strategies["two"].num_replicas_in_sync == 2
    arrays = {
        f"{task}:{name}:{key}": value
        for task, compute in (TASKS | LONGER_TASKS).items()
        if task in tasks
        for name, strategy in strategies.items()
        for key, value in compute(strategy).items()
    }
    np.savez(path, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
