"""What a phase trains on: new images that are coded in part, and old exemplars in turn."""

import dataclasses
import logging

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.coded import CodedImageSet
from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.data.image_set import MixedImageSet
from mnemonics_tf.data.source import InMemorySource
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.codecs.jpeg import Jpeg
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.flags import settings_from_flags
from mnemonics_tf.methods import METHODS
from mnemonics_tf.monitoring.progress import Progress
from mnemonics_tf.phases import finetune as finetune_module
from mnemonics_tf.phases import train_model as train_model_module
from mnemonics_tf.phases.asked_for import make_protocol
from mnemonics_tf.phases.checks import check_new_run, check_settings
from mnemonics_tf.phases.coded_share import coded_share, partly_coded
from mnemonics_tf.phases.finetune import finetune_model
from mnemonics_tf.phases.train_model import train_model
from mnemonics_tf.settings import ExemplarSettings, RunSettings, Settings

OLD = np.repeat(np.arange(6), [5, 9, 7, 7, 7, 7])


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """An experiment at the beginning of phase 1, whose memory stands for phase 0's."""
    run = RunSettings(run_dir=str(tmp_path_factory.mktemp("run")))
    settings = Settings(run).changed(base_classes=6, num_phases=2)
    experiment = Experiment(settings, load_digits(), tf.distribute.get_strategy())
    images = load_digits().training_set([0]).load_all()[: len(OLD)]
    memory = ExemplarMemory(images, OLD, codec="jpeg", quality=30)
    state = experiment.begin_phase(experiment.protocol.phases[0])
    phase = experiment.protocol.phases[1]
    ids = experiment.protocol.original_ids(phase.new_classes)
    new = load_digits().training_set(ids)
    new = new.relabel(experiment.protocol.labels_of(new.labels))
    return experiment, phase, new, memory, state


def workshop_of(begun, parse, *flags):
    return dataclasses.replace(begun[0].workshop, settings=settings_from_flags(parse(*flags)))


def coded(begun, parse, *flags):
    experiment, phase, new, memory, _ = begun
    workshop = workshop_of(begun, parse, "--codec=jpeg", *flags)
    return partly_coded(workshop, phase, new, memory)


@pytest.mark.parametrize(
    ("flag", "share"), [("coded_share=-1", 0.5), ("coded_share=1", 1), ("coded_share=0.25", 0.25)]
)
def test_a_share_of_each_class_goes_through_the_codec(begun, parse, flag, share):
    _, phase, new, memory, _ = begun
    images = coded(begun, parse, f"--{flag}")
    np.testing.assert_array_equal(np.bincount(images.labels), np.bincount(new.labels))
    for label in phase.new_classes:
        raw = new.images[new.indices_of(label)]
        through = ExemplarMemory(raw, np.zeros(len(raw)), codec="jpeg", quality=30).images
        found = {image.tobytes() for image in images.images[images.indices_of(label)]}
        changed = found - {image.tobytes() for image in raw}
        assert changed <= {image.tobytes() for image in through}
        assert len(changed) == pytest.approx(round(share * len(raw)), abs=1)


def test_encoding_that_takes_long_is_told(begun, parse, monkeypatch, caplog):
    monkeypatch.setattr(Progress, "INTERVAL", 0.0)
    with caplog.at_level(logging.INFO, "mnemonics_tf"):
        coded(begun, parse)
    assert "phase 1 encoding class 1/2" in caplog.text


def test_the_seed_decides_which(begun, parse):
    first, again, other = (coded(begun, parse, f"--seed={seed}").images for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_phase_0_and_a_share_of_none_are_left_as_they_are(begun, parse):
    experiment, _, new, memory, _ = begun
    assert coded(begun, parse, "--coded_share=0") is new
    workshop = workshop_of(begun, parse, "--codec=jpeg")
    assert partly_coded(workshop, experiment.protocol.phases[0], new, memory) is new


def test_files_are_coded_as_streams(begun, parse):
    experiment, phase, new, memory, _ = begun
    streams = ExemplarMemory(new.images, new.labels, codec="jpeg", quality=95).as_image_set()
    workshop = workshop_of(begun, parse, "--codec=jpeg")
    images = partly_coded(workshop, phase, streams, memory)
    assert isinstance(images, MixedImageSet)
    assert {type(part) for part in images._parts} == {CodedImageSet}
    assert images.load_all().shape == new.images.shape


class ThreeAtMost(Jpeg):
    """A codec of a user's own that loses something, and holds so many images of a class."""

    def __init__(self):
        super().__init__(30)

    def most_images(self, image_shape):
        return 3


def test_more_new_images_than_a_code_holds_are_refused_before_the_run():
    images = {k: np.zeros((60 if k < 5 else 10, 8, 8, 1), np.uint8) for k in range(10)}
    source = InMemorySource(images, images, list("abcdefghij"))
    codec = f"{__name__}:ThreeAtMost"

    def begin(**values):
        values = {"codec": codec, "exemplars_per_class": 3, "base_classes": 5, **values}
        settings = Settings().changed(class_order=tuple(range(10)), num_phases=1, **values)
        method = METHODS[settings.training.method](settings.training)
        check_new_run(settings, method, make_protocol(settings, 10), source)

    told = "--coded_share=0.5 codes 5 of the 10 new images .* stores 3 at most: pass at most "
    with pytest.raises(UserError, match=f"{told}--coded_share=0.3$"):
        begin()
    begin(coded_share=0.3)
    begin(method="joint")
    with pytest.raises(UserError, match="codes 5 of"):
        begin(exemplar_bytes_per_class=10**6, exemplars_per_class=20)


def test_shares_that_change_nothing():
    assert coded_share(ExemplarSettings(codec="webp_lossless")) == 0
    with pytest.raises(UserError, match="changes nothing with --codec=webp_lossless"):
        coded_share(ExemplarSettings(codec="webp_lossless", coded_share=0.5))
    with pytest.raises(UserError, match="pass a number from 0 to 1, or -1"):
        coded_share(ExemplarSettings(codec="jpeg", coded_share=-0.5))


@pytest.mark.parametrize(
    ("flag", "values"),
    [
        ("--replay_per_class", {"replay_per_class": 3}),
        ("--coded_share", {"coded_share": 0.5, "codec": "jpeg"}),
    ],
)
def test_what_a_method_without_exemplars_would_not_do(flag, values):
    settings = Settings().changed(method="joint", **values)
    method = METHODS["joint"](settings.training)
    with pytest.raises(UserError, match=f"{flag}: this method .* in vain"):
        check_settings(settings, method, make_protocol(settings, 10))


# What an epoch sees


@pytest.fixture
def given(monkeypatch):
    """What training and fine-tune hand to their epochs: images and draw."""
    found = {}

    def keep(workshop, phase, images, loop, stage, before, draw=None):
        found[stage.name] = (images, draw)
        return {}

    for module in (train_model_module, finetune_module):
        monkeypatch.setattr(module, "run_epochs", keep)
    return found


def epoch_counts(images, draw, seed=0) -> list[int]:
    rows = np.arange(len(images)) if draw is None else draw.rows(tf.constant([seed, 0])).numpy()
    return np.bincount(images.labels[rows]).tolist()


@pytest.mark.parametrize(
    ("flags", "replayed", "tuned"),
    [((), [5, 9, 7, 7, 7, 7], [7] * 6), (("--replay_per_class=6",), [5, 6, 6, 6, 6, 6], [6] * 6)],
)
def test_old_exemplars_are_replayed_in_turn(begun, parse, given, flags, replayed, tuned):
    experiment, phase, new, memory, state = begun
    workshop = workshop_of(begun, parse, "--codec=jpeg", *flags)
    arguments = (workshop, experiment.method, phase, new, memory, state.model, None)
    train_model(*arguments, state.stage("train"))
    counts = epoch_counts(*given["train"])
    assert counts == [*replayed, *np.bincount(new.labels)[6:]]
    finetune_model(workshop, phase, memory.as_image_set(), state.model, state.stage("finetune"))
    assert epoch_counts(*given["finetune"]) == tuned


def test_what_bic_holds_out_is_not_replayed(begun, parse, given):
    experiment, phase, new, memory, state = begun
    workshop = workshop_of(begun, parse, "--codec=jpeg", "--replay_per_class=6")
    method = METHODS["bic"](workshop.settings.training)
    given_images = train_model_module._training_images(workshop, method, phase, new, memory)
    images, held_out, draw = given_images
    assert np.bincount(held_out.labels).tolist() == [1] * 8
    assert epoch_counts(images, draw)[:6] == [4, 6, 6, 6, 6, 6]
    few = memory.trimmed(1)
    with pytest.raises(UserError, match="holds out 1 images .* no more than 1"):
        train_model_module._training_images(workshop, method, phase, new, few)
