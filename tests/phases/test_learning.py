import subprocess
import types

import numpy as np
import pytest

from mnemonics_tf import devices
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.budget import check_last_share, kept_within, make_budget
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.models.resnet import resnet_cifar
from mnemonics_tf.phases.learning import check_footprint, tell_where_none_fits, where_one_fits
from mnemonics_tf.settings import InnerSettings, Settings


def learned_and_chosen(codec):
    """Memories of two classes: smooth images, and in their place noise in the second class."""
    chosen = np.full((4, 8, 8, 3), 100, np.uint8)
    chosen[:, 4:] = np.arange(4, dtype=np.uint8)[:, None, None, None]
    learned = chosen.copy()
    learned[2:] = np.random.default_rng(0).integers(0, 256, learned[2:].shape, np.uint8)
    labels = np.array([0, 0, 1, 1])
    return (ExemplarMemory(images, labels, codec=codec) for images in (learned, chosen))


def run_of(settings, num_classes):
    """What of a run is asked: its budget, and how many classes it teaches."""
    return types.SimpleNamespace(budget=make_budget(settings.exemplar), num_classes=num_classes)


@pytest.mark.parametrize("codec", ["webp_lossless", "jpeg"])
def test_a_class_that_outgrew_its_bytes_stays_as_it_was(codec, caplog):
    learned, chosen = learned_and_chosen(codec)
    kept_bytes = chosen.bytes_by_class()
    assert learned.trimmed(1).bytes_by_class()[1] > kept_bytes[1]
    for quota, restored in ((kept_bytes[1], True), (learned.bytes_by_class()[1], False)):
        settings = Settings().changed(exemplar_bytes_total=2 * int(quota), codec=codec)
        caplog.clear()
        result = where_one_fits(run_of(settings, 2), learned, chosen)
        assert not caplog.text  # judges ask again and again
        tell_where_none_fits(run_of(settings, 2), learned)
        source = chosen if restored else learned
        np.testing.assert_array_equal(result.images[2:], source.images[2:])
        np.testing.assert_array_equal(result.images[:2], learned.images[:2])
        assert ("of 1 class not one would fit" in caplog.text) is restored
        assert len(kept_within(result, make_budget(settings.exemplar), 2).trimmed(1)) == 2


@pytest.mark.parametrize("codec", ["webp_lossless", "jpeg"])
def test_what_would_not_fit_once_all_classes_share_a_budget_stays_too(codec):
    learned, chosen = learned_and_chosen(codec)
    needed = int(learned.trimmed(1).bytes_by_class().max())
    settings = Settings().changed(exemplar_bytes_total=4 * needed - 1, codec=codec)
    budget = make_budget(settings.exemplar)
    assert len(kept_within(learned, budget, 2).trimmed(1)) == 2  # today it fits
    with pytest.raises(UserError, match="bytes for each of 4 classes"):
        check_last_share(learned, budget, 4)
    check_last_share(where_one_fits(run_of(settings, 4), learned, chosen), budget, 4)
    assert where_one_fits(run_of(settings, 3), learned, chosen) is learned


def test_a_budget_that_counts_exemplars_gives_nothing_back():
    learned, chosen = learned_and_chosen("webp_lossless")
    settings = Settings().changed(exemplars_per_class=1)
    assert where_one_fits(run_of(settings, 2), learned, chosen) is learned


# Float outputs of ResNet-8 for an 8x8 image, counted by hand: 64 pixels at stage 1, 16, 4.
IMAGE_BYTES = 4 * (
    64 * 1  # the input
    + 64 * 16 * 2  # stem and its ReLU
    + 64 * 16 * 5  # block 1: convolution, ReLU, convolution, sum, ReLU
    + 16 * 32 * 6  # block 2, with a shortcut
    + 4 * 64 * 5  # block 3, with a shortcut and without a last ReLU
    + 64  # mean
)


def settings(scope="all", estimator="sweep", batch_size=10) -> InnerSettings:
    return InnerSettings(
        inner_scope=scope, meta_gradient=estimator, inner_steps=5, inner_batch_size=batch_size
    )


@pytest.fixture(scope="module")
def backbone():
    return resnet_cifar((8, 8, 1), 8, 0)


@pytest.fixture
def free(monkeypatch):
    """Sets the free memory, in units of one image's layer outputs."""

    def set_free(images):
        monkeypatch.setattr(
            devices,
            "available_bytes",
            lambda: None if images is None else int(images * IMAGE_BYTES),
        )

    return set_free


@pytest.mark.parametrize(
    ("base", "exemplars", "outer_batch", "images"),
    [
        (settings(), 50, 1, 4 * 10),  # a batch of one step, four times
        (settings(batch_size=0), 50, 1, 4 * 50),  # all exemplars
        (settings(batch_size=80), 50, 1, 4 * 50),  # no more than there are
        (settings(estimator="unroll"), 50, 1, 4 * 10 * 5),  # of all steps
        (settings(), 50, 30, 2 * 30),  # the outer batch is larger
        (settings("classifier", batch_size=0), 50, 1, 2 * 50),
        (settings("classifier", batch_size=0), 1000, 1, 2 * 256),  # in chunks
    ],
)
def test_what_does_not_fit_is_refused(free, backbone, base, exemplars, outer_batch, images):
    free(1.01 * images)
    check_footprint(backbone, base, outer_batch, exemplars)
    free(0.99 * images)
    with pytest.raises(UserError, match="GiB are there"):
        check_footprint(backbone, base, outer_batch, exemplars)


def test_the_refusal_names_the_flags_that_help(free, backbone):
    free(1)
    with pytest.raises(UserError) as error:
        check_footprint(backbone, settings(), 30, 50)
    for words in ("--inner_batch_size (now 10)", "--outer_batch_size (now 30)", "--inner_scope="):
        assert words in str(error.value)
    assert "--meta_gradient" not in str(error.value)
    with pytest.raises(UserError, match="--meta_gradient=sweep"):
        check_footprint(backbone, settings(estimator="unroll"), 30, 50)


def test_an_unknown_size_of_memory_refuses_nothing(free, backbone):
    free(None)
    check_footprint(backbone, settings(), 10**9, 10**9)


def test_this_machine_has_some_available_memory():
    assert devices.available_bytes() is None or devices.available_bytes() > 2**20


@pytest.mark.parametrize(
    ("told", "expected"), [("143771\n81559\n", 81559 * 2**20), ("[N/A]\n", None), (None, None)]
)
def test_with_gpus_the_smallest_one_counts(monkeypatch, told, expected):
    def run(command, **_):
        assert command[0] == "nvidia-smi"
        if told is None:
            raise FileNotFoundError(command[0])
        return subprocess.CompletedProcess(command, 0, stdout=told)

    monkeypatch.setattr(devices.tf.config, "list_logical_devices", lambda kind: ["GPU:0", "GPU:1"])
    monkeypatch.setattr(devices.subprocess, "run", run)
    assert devices.available_bytes() == expected
