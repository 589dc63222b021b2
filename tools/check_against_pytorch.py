r"""One training step of every method, compared with the same step computed by PyTorch.

    python -m tools.check_against_pytorch /path/to/python

The argument is a Python that has PyTorch (requirements-pytorch.txt). Weights and a batch go to
`check_against_pytorch_reference.py`, which knows nothing of this project's code. Compared are the
parts of the loss, and all variables after one step of SGD with L2 and momentum.
"""

import mnemonics_tf.startup  # isort: skip  # noqa: F401 (before TensorFlow)
import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import tensorflow as tf
from absl import app

from mnemonics_tf.data.augmentation import AUGMENTATIONS
from mnemonics_tf.data.image_set import ArrayImageSet
from mnemonics_tf.data.pipeline import Normalization, Pipeline
from mnemonics_tf.data.protocol import ClassIncrementalProtocol, Phase
from mnemonics_tf.methods import METHODS
from mnemonics_tf.methods.base import Method
from mnemonics_tf.models.architecture import Architecture
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.run.files import read_arrays, write_arrays
from mnemonics_tf.settings import TrainingSettings
from mnemonics_tf.training.loop import TrainingLoop
from mnemonics_tf.training.optimization import OptimizationSettings

REFERENCE = pathlib.Path(__file__).with_name("check_against_pytorch_reference.py")
TOLERANCE = 1e-5

#: (method, with weight transfer)
CASES = (("lwf", False), ("bic", False), ("lucir", False), ("lucir", True))

PHASE = ClassIncrementalProtocol(range(7), 4, 1).phases[1]
NORMALIZATION = Normalization((0.5,) * 3, (0.25,) * 3)
OPTIMIZATION = OptimizationSettings(
    epochs=1,
    learning_rate=0.1,
    milestones=(),
    decay=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    decay_normalization=False,
    batch_size=14,
)


@dataclasses.dataclass
class Case:
    """A model in phase 1 with a batch, all of it drawn by NumPy."""

    method: Method
    phase: Phase
    model: IncrementalModel
    old_model: IncrementalModel
    images: ArrayImageSet

    def loss_parts(self, batch, outputs, old_outputs):
        """Returns the method's parts of the loss, one number per example."""
        return self.method.loss_parts(batch, outputs, old_outputs)


def make_case(name: str, transfer: bool) -> Case:
    """Returns method `name` in phase 1, with weight transfer or without."""
    method = METHODS[name](TrainingSettings())
    architecture = Architecture(
        "resnet_cifar", 8, (8, 8, 3), method.classifier, method.corrects_logits
    )
    old_model = IncrementalModel(architecture, 0, PHASE.num_old, seed=0)
    model = IncrementalModel(architecture, PHASE.num_old, PHASE.num_new, seed=0)
    if transfer:
        model.enable_transfer()
    if method.freezes_old_classes:
        model.classifier.freeze_old()
    generator = np.random.default_rng(0)
    for one in (old_model, model):
        drawn = {
            path: _draw(path, value, generator)
            for path, value in split_kernel(one.state(), one.classifier.num_old).items()
        }
        if not one.transfer:  # the scales are not in use yet
            drawn |= {p: np.ones_like(v) for p, v in drawn.items() if p.endswith("transfer_scale")}
        one.set_state(drawn)
    pixels = generator.integers(0, 256, (OPTIMIZATION.batch_size, 8, 8, 3), np.uint8)
    labels = np.arange(OPTIMIZATION.batch_size) % PHASE.num_seen
    return Case(method, PHASE, model, old_model.frozen_copy(), ArrayImageSet(pixels, labels))


def split_kernel(state: dict[str, np.ndarray], num_old: int) -> dict[str, np.ndarray]:
    """Returns a model's state with the classifier's weights of old and new classes apart.

    Args:
        state: of a model.
        num_old: how many classes are old.
    """
    split = {}
    for path, value in state.items():
        if path != "classifier/kernel":
            split[path] = value
            continue
        if num_old:
            split["classifier/old_kernel"] = value[:, :num_old]
        split["classifier/new_kernel"] = value[:, num_old:]
    return split


def _draw(path: str, value: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns weights as after some training."""
    if path.split("/")[-1] in ("gamma", "moving_variance", "transfer_scale", "scale", "gain"):
        return generator.uniform(0.5, 1.5, value.shape)
    size = 0.1 if value.ndim < 4 else (2 / np.prod(value.shape[:3])) ** 0.5
    return size * generator.normal(size=value.shape)


def step(case: Case) -> dict[str, np.ndarray]:
    """Takes the step in TensorFlow; returns loss parts and variables after it, by name."""
    pipeline = Pipeline(NORMALIZATION, AUGMENTATIONS["none"], seed=0)
    loop = TrainingLoop(
        case.model,
        case.old_model,
        case.loss_parts,
        OPTIMIZATION,
        pipeline,
        tf.distribute.get_strategy(),
    )
    figures = loop.run_epoch(case.images, 0, "train", 1)
    others = ("loss", "accuracy", "learning_rate", "images_per_second")
    parts = {f"part:{key}": np.array(figures[key]) for key in figures if key not in others}
    state = split_kernel(case.model.state(), case.phase.num_old)
    return parts | {f"model:{path}": value for path, value in state.items()}


def reference_step(
    python: str, name: str, case: Case, directory: pathlib.Path
) -> dict[str, np.ndarray]:
    """Lets PyTorch take the step from the same weights; returns what `step` returns."""
    facts = {
        "method": name,
        "transfer": case.model.transfer,
        "num_old": case.phase.num_old,
        "num_new": case.phase.num_new,
        **dataclasses.asdict(case.method.settings),
        **{key: getattr(OPTIMIZATION, key) for key in ("learning_rate", "momentum")},
        "weight_decay": OPTIMIZATION.weight_decay,
    }
    arrays = {
        "images": NORMALIZATION.normalize(case.images.images, tf.float64).numpy(),
        "labels": case.images.labels,
        **{
            f"{group}:{path}": value
            for group, model in (("model", case.model), ("old", case.old_model))
            for path, value in split_kernel(model.state(), model.classifier.num_old).items()
        },
    }
    write_arrays(directory / "case.npz", arrays)
    subprocess.run([python, REFERENCE, directory, json.dumps(facts)], check=True)
    return read_arrays(directory / "reference.npz")


def main(arguments: list[str]) -> int:
    """Compares all cases; returns 1 if one differs by more than the tolerance."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    worst = 0.0
    for name, transfer in CASES:
        case = make_case(name, transfer)
        with tempfile.TemporaryDirectory() as directory:
            expected = reference_step(arguments[1], name, case, pathlib.Path(directory))
        ours = step(case)
        assert ours.keys() == expected.keys(), ours.keys() ^ expected.keys()
        differences = {key: float(np.abs(ours[key] - expected[key]).max()) for key in ours}
        print(f"{name}{' with weight transfer' if transfer else ''}")
        for key in sorted(key for key in ours if key.startswith("part:")):
            print(f"  {key:<22} {ours[key]:.8f}  PyTorch {expected[key]:.8f}")
        variable = max(differences, key=differences.get)
        print(f"  largest difference of all: {differences[variable]:.1e}, {variable}")
        worst = max(worst, differences[variable])
    print("equal" if worst <= TOLERANCE else f"DIFFERENT: {worst:.1e} above {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    app.run(main)
