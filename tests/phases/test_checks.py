"""Advice on exemplars: followed, it works, and at once."""

import re
import types

import numpy as np
import pytest

from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.data.measured import MeasuredSource
from mnemonics_tf.data.preprocessing import Preprocessing
from mnemonics_tf.data.source import InMemorySource
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.codecs import webp_lossless
from mnemonics_tf.methods import METHODS
from mnemonics_tf.opened_run import OpenedRun
from mnemonics_tf.phases.asked_for import make_protocol, settle
from mnemonics_tf.phases.checks import (
    check_enough,
    check_further_phase,
    check_new_run,
    check_outer_step,
    check_settings,
)
from mnemonics_tf.settings import RunSettings, Settings


@pytest.mark.parametrize(
    ("folders", "run_dir", "refused"),
    [
        (["cat", "dog"], "images/runs/a", True),
        (["cat", "dog"], "runs/a", False),
        (["train", "val"], "images/runs/a", False),
        (["train", "val"], "images/train/a", True),
    ],
)
def test_a_run_does_not_lie_among_the_classes_of_its_data(tmp_path, folders, run_dir, refused):
    """Started again, it would take its own directory for a class without images."""
    for name in folders:
        (tmp_path / "images" / name).mkdir(parents=True)
    run = RunSettings(run_dir=str(tmp_path / run_dir), data_dir=str(tmp_path / "images"))
    settings = Settings(run).changed(dataset="folder")
    if not refused:
        assert settle(settings).run.run_dir == run.run_dir
        return
    with pytest.raises(UserError, match="where each folder is a class: pass a --run_dir elsewhere"):
        settle(settings)


@pytest.fixture(scope="module")
def source():
    return load_digits()


def check(source, **values):
    settings = Settings().changed(**values)
    method = METHODS[settings.training.method](settings.training)
    protocol = make_protocol(settings, 10)
    check_settings(settings, method, protocol)
    check_enough(settings, method, protocol, source)


def check_step(learned=slice(None), **values):
    settings = Settings().changed(**values)
    check_outer_step(settings, make_protocol(settings, 10).phases[learned])


@pytest.mark.parametrize(
    ("wanted", "advised"),
    [
        ({}, "pass at least 10"),
        ({"num_phases": 1}, "pass at least 10"),
        ({"method": "bic"}, "pass at least 18"),  # two of each of the nine old ones
        ({"adjust_old_exemplars": True, "adjust_subsets": 3}, "pass at least 27"),
    ],
)
def test_a_total_is_advised_that_is_enough_for_all_phases(source, wanted, advised):
    for total in (1, 7, 9):
        with pytest.raises(UserError, match=advised) as raised:
            check(source, exemplars_total=total, **wanted)
    enough = int(re.search(r"at least (\d+)", str(raised.value))[1])
    check(source, exemplars_total=enough, **wanted)


def test_lower_settings_are_advised_only_where_there_are_some(source, monkeypatch):
    with pytest.raises(UserError) as raised:
        check(source, method="bic", exemplars_per_class=1)
    assert "keep more exemplars (--exemplars_per_class=2)" in str(raised.value)
    assert "lower" not in str(raised.value)
    check(source, method="bic", exemplars_per_class=2)

    with pytest.raises(UserError) as raised:
        check(source, method="bic", exemplars_per_class=4, correction_share=0.9)
    assert "(--exemplars_per_class=5) or lower --correction_share" in str(raised.value)
    check(source, method="bic", exemplars_per_class=5, correction_share=0.9)

    monkeypatch.setitem(METHODS, "mine", METHODS["bic"])  # who knows what it holds out
    with pytest.raises(UserError) as raised:
        check(source, method="mine", exemplars_per_class=4, correction_share=0.9)
    assert "(--exemplars_per_class=5)" in str(raised.value)
    assert "lower" not in str(raised.value)

    with pytest.raises(UserError) as raised:
        check(source, method="bic", exemplars_per_class=4, correction_share=1.0)
    assert "keep more" not in str(raised.value)

    with pytest.raises(UserError) as raised:
        check(source, adjust_old_exemplars=True, exemplars_per_class=1)
    assert "(--exemplars_per_class=2)" in str(raised.value)
    assert "lower" not in str(raised.value)

    with pytest.raises(UserError, match="or lower --adjust_subsets to 3"):
        check(source, adjust_old_exemplars=True, exemplars_per_class=3, adjust_subsets=4)


def test_a_rehearsal_needs_images_to_score_by(source):
    wanted = {"exemplars": "mnemonics", "validation": "rehearsal"}
    with pytest.raises(UserError, match="--validation_share=0 holds out none"):
        check(source, validation_share=0.0, **wanted)
    check(source, **wanted)
    check(source, validation_share=0.0, validation="rehearsal")  # nothing learns


@pytest.mark.parametrize(
    ("wanted", "classes"),
    [
        ({"exemplars": "mnemonics"}, 5),
        ({"exemplars": "mnemonics", "train_beside_old": True}, 10),
        ({"exemplars": "mnemonics", "few_new_classes": "beside"}, 10),
        ({"exemplars": "mnemonics", "few_new_classes": "beside", "num_phases": 1}, 5),
        ({"adjust_old_exemplars": True}, 9),
    ],
)
def test_an_outer_step_has_room_for_each_class_that_takes_part(wanted, classes):
    with pytest.raises(UserError, match=f"pass at least {classes}, or 0 for all"):
        check_step(exemplars_per_step=classes - 1, **wanted)
    check_step(exemplars_per_step=classes, **wanted)
    check_step(exemplars_per_step=0, **wanted)


def test_an_outer_step_may_lack_classes_where_that_costs_nothing():
    check_step(exemplars_per_step=1)  # nothing learns
    anchored = {"exemplars": "mnemonics", "objective": "anchored", "codec": "jpeg"}
    check_step(exemplars_per_step=1, **anchored)  # each exemplar by itself
    later = slice(1, None)  # phase 0 is done
    check_step(later, exemplars_per_step=1, exemplars="mnemonics", few_new_classes="alone")


def test_a_quality_goes_with_a_codec_that_has_one(source):
    def check_new(settings):
        method = METHODS[settings.training.method](settings.training)
        check_new_run(settings, method, make_protocol(settings, 10), source)

    for codec, refused in (("pixels", True), ("webp_lossless", True), ("jpeg", False)):
        settings = Settings().changed(codec=codec, jpeg_quality=75)
        if refused:
            with pytest.raises(UserError, match="pass --codec=jpeg with it, or leave it out"):
                check_new(settings)
        else:
            check_new(settings)


def test_more_exemplars_of_old_classes_are_to_be_had_in_another_run_alone():
    """Of a run that learns further classes; images of new ones can be added."""
    settings = Settings().changed(method="bic")
    protocol = make_protocol(settings, 10)
    method = METHODS["bic"](settings.training)
    for few, told in (("old", "begin another run, which keeps more"), ("new", "give it more")):
        counts = np.full(10, 9)
        counts[0 if few == "old" else -1] = 1
        source = types.SimpleNamespace(training_counts_of=lambda order, counts=counts: counts)
        with pytest.raises(UserError, match=f"a class has no more than 1: {told}"):
            check_further_phase(settings, method, protocol, source)


class Blanks(InMemorySource):
    """Ten classes of black images, as many for training as for test."""

    name, augmentation = "blanks", "none"
    channel_mean = channel_std = (0.5,)

    def __init__(self, count: int, channels: int):
        images = {k: np.zeros((count, 8, 8, channels), np.uint8) for k in range(10)}
        super().__init__(images, images, list("abcdefghij"))


def begin(source, **values):
    settings = Settings().changed(**values)
    method = METHODS[settings.training.method](settings.training)
    protocol = make_protocol(settings, len(source.class_names))
    check_new_run(settings, method, protocol, source)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("exemplars", "herdng", "--exemplars=herdng: known are random, herding"),
        ("mnemonics_start", "herdng", "--mnemonics_start=herdng: known are"),
        ("meta_gradient", "swep", "--meta_gradient=swep: known are sweep"),
        ("objective", f"{__name__}:Nothing", "--objective=.*:Nothing: .* has no Nothing"),
    ],
)
def test_a_name_that_stands_for_nothing_is_refused_before_work(source, name, value, told):
    with pytest.raises(UserError, match=told):
        begin(source, **{name: value})


def positional(p, k, jit):
    """An estimator that does not take what it is built with."""


def test_an_estimator_that_can_not_be_built_is_refused_before_work(source):
    """Where it is used: exemplars that do not learn ask for none."""
    name = f"{__name__}:{positional.__name__}"
    begin(source, meta_gradient=name)
    for values in ({"exemplars": "mnemonics"}, {"adjust_old_exemplars": True}):
        with pytest.raises(UserError, match="can't be built with problem=.*argument: 'p'"):
            begin(source, meta_gradient=name, **values)
    begin(source, meta_gradient="mnemonics_tf.bilevel:Unroll", exemplars="mnemonics")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (range(3), "the class name 0 is no text: mend the source's `class_names`"),
        (["a", "b", "a"], "the class name 'a' stands for two classes: mend"),
    ],
)
def test_names_of_classes_that_no_phase_could_note_are_refused_before_work(names, told):
    images = {c: np.zeros((30, 8, 8, 1), np.uint8) for c in range(3)}
    with pytest.raises(UserError, match=re.escape(f"--dataset=digits: {told}")):
        begin(InMemorySource(images, images, names), base_classes=2, num_phases=1)


def test_a_source_that_has_served_a_run_is_refused_before_anything_is_written():
    images = {c: np.zeros((30, 8, 8, 1), np.uint8) for c in range(3)}
    source = MeasuredSource("own", images, images, "abc")
    begin(source, base_classes=2, num_phases=1)
    source.release([2, 1])
    told = "of the classes 1, 2 were released: a data source serves one run, so open it anew"
    with pytest.raises(UserError, match=told):
        begin(source, base_classes=2, num_phases=1)
    with pytest.raises(UserError, match=told):
        Preprocessing.beginning_with(source, range(3))


def test_the_source_that_is_open_is_not_looked_up_again(source):
    """Its code may be a stranger's, whom `learn` need not trust, or a label of one's own."""
    begin(source, dataset="no.such:Source")


@pytest.mark.parametrize("codec", ["jpeg", "webp_lossless"])
def test_images_that_a_codec_can_not_store_are_refused_before_work(codec):
    begin(Blanks(2, channels=4))
    with pytest.raises(UserError, match=f"--codec={codec} can't store .* 4 channels"):
        begin(Blanks(2, channels=4), codec=codec)


@pytest.mark.parametrize(
    ("budget", "flag"),
    [
        ({"exemplars_per_class": 10}, "--exemplars_per_class=9"),
        ({"exemplars_total": 60}, "--exemplars_total=45"),
    ],
)
def test_more_images_of_a_class_than_its_picture_holds_are_refused_before_work(
    monkeypatch, budget, flag
):
    monkeypatch.setattr(webp_lossless, "_LARGEST_SIDE", 31)  # three of Blanks each way
    values = {"codec": "webp_lossless", "base_classes": 5, "num_phases": 1, **budget}
    told = f"stores 9 of 8 x 8 pixels at most: pass --codec=pixels, or {flag}"
    with pytest.raises(UserError, match=rf"keeps 1\d images of a class in phase 0.*{told}"):
        begin(Blanks(12, channels=3), **values)
    begin(Blanks(9, channels=3), **values)  # all that there are
    begin(Blanks(12, channels=3), **(values | {"codec": "pixels"}))
    name, _, value = flag.removeprefix("--").partition("=")
    begin(Blanks(12, channels=3), **(values | {name: int(value)}))
    begin(Blanks(12, channels=3), codec="webp_lossless", exemplar_bytes_per_class=10**6)
    settings = Settings().changed(**(values | {"exemplars_per_class": 11, "exemplars_total": 0}))
    protocol, method = make_protocol(settings, 10), METHODS["lwf"](settings.training)
    with pytest.raises(UserError, match="keeps 11 images of a class in phase 1"):
        check_further_phase(settings, method, protocol, Blanks(12, channels=3))


def test_a_run_that_is_done_is_opened_with_fewer_images_than_it_learned_from(tmp_path):
    """Only who begins one needs them."""
    few = Blanks(1, channels=1)
    settings = Settings(RunSettings(run_dir=str(tmp_path))).changed(method="bic")
    opened = OpenedRun(settings, few)
    with pytest.raises(UserError, match="--method=bic holds out 1 images of each class"):
        begin(few, method="bic")
    with pytest.raises(UserError, match="no phase of .* is done yet: go on with"):
        opened.phases_done()
