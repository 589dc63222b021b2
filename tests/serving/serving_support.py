"""A small exported model, and an exported model loaded as TensorFlow Serving loads it."""

import dataclasses
import pathlib

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.pipeline import Normalization
from mnemonics_tf.models.architecture import Architecture
from mnemonics_tf.models.incremental import IncrementalModel, Outputs
from mnemonics_tf.serving.export import export_phase
from mnemonics_tf.serving.signatures import ExportedClasses
from tests.small_network import NAME


@dataclasses.dataclass
class Learned:
    """A model after a phase, with all that goes into its export."""

    model: IncrementalModel
    classes: ExportedClasses
    normalization: Normalization
    class_means: np.ndarray
    images: np.ndarray

    def export(self, directory: pathlib.Path, version: int, **changes) -> pathlib.Path:
        """Exports it, with some arguments of `export_phase` changed."""
        arguments = {
            "model": self.model,
            "classes": self.classes,
            "normalization": self.normalization,
            "class_means": self.class_means,
            "metadata": {"protocol": {"seed": 1993}, "accuracy": 0.5},
            "warmup_images": self.images[:2],
        }
        return export_phase(directory, version, **(arguments | changes))

    def predict(self, images: np.ndarray) -> Outputs:
        """Runs the model in this process; logits are those of seen classes."""
        outputs = self.model(self.normalization.normalize(images))
        return Outputs(outputs.features, outputs.logits[:, : self.model.num_classes])


def learn(
    num_old: int = 3,
    num_new: int = 2,
    classifier: str = "cosine",
    image_shape: tuple[int, int, int] = (32, 32, 3),
    transfer: bool = True,
    corrects_logits: bool = False,
    seed: int = 0,
    backbone: str = NAME,
) -> Learned:
    """Returns a model with random weights, scales and statistics, as after training."""
    random = np.random.default_rng(seed)
    model = IncrementalModel(
        Architecture(backbone, 8, image_shape, classifier, corrects_logits),
        num_old,
        num_new,
        seed,
    )
    if transfer:
        model.enable_transfer()
    for variable in model.variables:
        if variable.name in ("gamma", "moving_variance", "scale") or (
            transfer and variable.name == "transfer_scale"
        ):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "moving_mean", "bias"):
            variable.assign(random.normal(0, 0.2, variable.shape))
    kernel = model.classifier.seen_kernel()
    kernel[:, :num_old] = random.uniform(0.5, 1.5, (len(kernel), num_old))
    model.classifier.set_kernel(kernel)
    num_classes, channels = num_old + num_new, image_shape[-1]
    means = random.normal(size=(num_classes, model.feature_size)).astype(np.float32)
    return Learned(
        model,
        ExportedClasses(
            original_ids=tuple(int(i) + 10 for i in random.permutation(num_classes)),
            names=tuple(f"Straße {i}" for i in range(num_classes)),
        ),
        Normalization(
            tuple(0.4 + 0.05 * np.arange(channels)), tuple(0.2 + 0.03 * np.arange(channels))
        ),
        means / np.linalg.norm(means, axis=1, keepdims=True),
        random.integers(0, 256, (64, *image_shape), np.uint8),
    )


def nearest_means(features, class_means):
    """The rule of nearest means by its definition: the smallest Euclidean distance."""
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    return np.linalg.norm(features[:, None] - class_means[None], axis=2).argmin(axis=1)


class ServedModel:
    """A SavedModel in a session, the way TensorFlow Serving runs it."""

    def __init__(self, path: pathlib.Path):
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(self._session, ["serve"], str(path))
        self.signatures = {
            name: signature
            for name, signature in meta_graph.signature_def.items()
            if not name.startswith("__")
        }

    def __call__(self, signature_name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the outputs of one signature by name."""
        signature = self.signatures[signature_name]
        feed = {signature.inputs[key].name: value for key, value in inputs.items()}
        fetches = {key: output.name for key, output in signature.outputs.items()}
        return self._session.run(fetches, feed)

    def close(self) -> None:
        """Releases the session."""
        self._session.close()
