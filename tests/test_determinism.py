"""One seed decides everything: what holds it, and what another seed changes."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data import augmentation
from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.data.image_set import ArrayImageSet
from mnemonics_tf.data.pipeline import Normalization, Pipeline
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.phases.select_exemplars import select
from mnemonics_tf.settings import ProtocolSettings, RunSettings, Settings, TrainingSettings

pytestmark = pytest.mark.usefixtures("small_networks")

PIXELS = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 1), np.uint8)
IMAGES = ArrayImageSet(PIXELS, np.arange(100, dtype=np.int32))


def epoch(seed: int, augment=None) -> dict[str, np.ndarray]:
    """Returns an epoch of training batches, each part in one array."""
    augment = augment or augmentation.AUGMENTATIONS["shift"]
    pipeline = Pipeline(Normalization((0.5,), (0.5,)), augment, seed)
    batches = list(pipeline.training_batches(IMAGES, 16, "train", 1, 2).as_numpy_iterator())
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


@pytest.fixture(params=[1, 7])
def input_threads(request, monkeypatch) -> int:
    """As many threads make batches, where TensorFlow would choose."""
    monkeypatch.setattr(tf.data, "AUTOTUNE", request.param)
    return request.param


@pytest.mark.usefixtures("input_threads")
def test_batches_are_the_same_with_any_number_of_input_threads(monkeypatch):
    found = epoch(seed=3)
    monkeypatch.undo()
    for name, expected in epoch(seed=3).items():
        np.testing.assert_array_equal(found[name], expected)


def test_another_seed_shuffles_otherwise():
    keep = augmentation.AUGMENTATIONS["none"]
    orders = [epoch(seed, keep)["label"].tolist() for seed in (3, 3, 4)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == list(range(100))


def test_another_seed_augments_otherwise():
    def in_order(seed):
        batch = epoch(seed)
        return batch["image"][np.argsort(batch["label"])]

    images = [in_order(seed) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(images[0], images[1])
    assert np.mean(images[0] != images[2]) > 0.1


@dataclasses.dataclass
class Begun:
    """Phase 0 with a seed: the initial model, the one after an epoch, and random exemplars."""

    initial: dict[str, np.ndarray]
    trained: dict[str, np.ndarray]
    exemplars: np.ndarray


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> list[Begun]:
    """The same run twice, the second time from batches that one thread makes, and another seed."""
    found = []
    for seed, threads in ((3, tf.data.AUTOTUNE), (3, 1), (4, tf.data.AUTOTUNE)):
        settings = Settings(
            RunSettings(str(tmp_path_factory.mktemp("run"))),
            ProtocolSettings(base_classes=2, num_phases=1, seed=seed),
            training=TrainingSettings(base_epochs=1),
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tf.data, "AUTOTUNE", threads)
            experiment = Experiment(settings, load_digits(), tf.distribute.get_strategy())
            state = experiment.begin_phase(experiment.protocol.phases[0])
            initial = state.model.state()
            if seed == 3:
                experiment.run_stage("train", state)
            workshop, images = experiment.workshop, state.training_set
            exemplars = select(workshop, state.phase, images, state.model, "random", 20)
        found.append(Begun(initial, state.model.state(), exemplars))
    return found


@pytest.mark.slow
def test_the_same_seed_gives_the_same_model_bit_for_bit(begun):
    for part in ("initial", "trained"):
        ours, again = (getattr(run, part) for run in begun[:2])
        assert ours.keys() == again.keys()
        for name, array in ours.items():
            np.testing.assert_array_equal(array, again[name], err_msg=name)


@pytest.mark.slow
def test_another_seed_starts_from_other_weights(begun):
    first, _, other = (run.initial for run in begun)
    kernels = [name for name in first if name.split("/")[-1] in ("kernel", "new_kernel")]
    assert len(kernels) == 3
    for name in kernels:
        assert np.mean(first[name] != other[name]) > 0.99, name


@pytest.mark.slow
def test_another_seed_chooses_other_exemplars(begun):
    first, again, other = (run.exemplars.tolist() for run in begun)
    assert first == again != other
    assert len(set(first) & set(other)) < 20  # of 40, out of about 240 images
