"""Exemplars chosen within bytes: the best ones, as many as fit, and advice where they can't be."""

import re

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.digits import Digits, load_digits
from mnemonics_tf.data.image_set import ArrayImageSet
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.budget import Budget, check_last_share, kept_within, make_budget
from mnemonics_tf.exemplars.codecs import webp_lossless
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.methods import METHODS
from mnemonics_tf.phases.asked_for import make_protocol
from mnemonics_tf.phases.checks import (
    check_exemplars,
    check_new_run,
    check_settings,
)
from mnemonics_tf.phases.make_exemplars import make_exemplars
from mnemonics_tf.phases.quotas import Cost, Room, expected_quotas
from mnemonics_tf.phases.select_exemplars import select, select_within
from mnemonics_tf.settings import RunSettings, Settings


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    run = RunSettings(run_dir=str(tmp_path_factory.mktemp("run")))
    settings = Settings(run).changed(base_classes=6, num_phases=2, exemplar_bytes_total=6000)
    settings = settings.changed(codec="jpeg", jpeg_quality=50)
    experiment = Experiment(settings, load_digits(), tf.distribute.get_strategy())
    return experiment, experiment.begin_phase(experiment.protocol.phases[0])


def room(state, num_bytes):
    return Room(Budget(bytes_per_class=num_bytes), state.phase.num_seen, state.memory)


@pytest.mark.parametrize("selection", ["herding", "random"])
def test_the_best_that_fit_are_chosen(begun, selection):
    experiment, state = begun
    given = (experiment.workshop, state.phase, state.training_set, state.model, selection)
    rows = select_within(*given, room(state, 1000))
    chosen = state.training_set.subset(rows)
    memory = state.memory.extended(chosen.load_all(), chosen.labels)
    assert memory.bytes_by_class().max() <= 1000
    counts = np.bincount(chosen.labels)
    assert len(set(counts.tolist())) > 1  # numbers differ
    more = select(*given, int(counts.max()) + 1)
    labels = state.training_set.labels[more]
    for label, count in enumerate(counts):
        ranked = more[labels == label]
        np.testing.assert_array_equal(rows[chosen.labels == label], ranked[:count])
        one_more = state.training_set.subset(ranked[: count + 1]).load_all()
        assert memory.bytes_of(one_more) > 1000


def test_all_of_a_class_are_kept_where_they_fit(begun):
    experiment, state = begun
    given = (experiment.workshop, state.phase, state.training_set, state.model, "random")
    rows = select_within(*given, room(state, 10**6))
    assert sorted(rows) == list(range(len(state.training_set)))


def test_no_more_of_a_class_are_chosen_than_its_picture_holds(begun, monkeypatch):
    """Whatever its bytes have room for, and as many as images are held out."""
    experiment, state = begun
    side = state.memory.image_shape[0]
    monkeypatch.setattr(webp_lossless, "_LARGEST_SIDE", 4 * side)
    memory = ExemplarMemory.empty(state.memory.image_shape, codec="webp_lossless")
    assert memory.most_of_class == 16
    large = Room(Budget(bytes_per_class=10**6), state.phase.num_seen, memory)
    given = (experiment.workshop, state.phase, state.training_set, state.model, "random")
    labels = state.training_set.labels[select_within(*given, large)]
    assert np.bincount(labels).tolist() == [16] * state.phase.num_new
    members = state.training_set.indices_of(0)
    assert large.to_leave(state.training_set, members, 20) == 16
    assert large.estimate(state.training_set, members) == 16


def test_what_is_advised_is_enough_for_every_class(begun):
    experiment, state = begun
    given = (experiment.workshop, state.phase, state.training_set, state.model, "herding")
    first = select(*given, 1)
    sizes = [
        state.memory.bytes_of(state.training_set.subset(first[k : k + 1]).load_all())
        for k in range(len(first))
    ]
    assert min(sizes) < max(sizes)
    with pytest.raises(
        UserError, match=f"anew with at least --exemplar_bytes_per_class={max(sizes)}"
    ):
        select_within(*given, room(state, min(sizes) - 1))
    assert len(select_within(*given, room(state, max(sizes)))) >= 6


def test_what_is_advised_in_all_is_enough_for_the_classes_of_the_last_phase(begun):
    experiment, state = begun
    given = (experiment.workshop, state.phase, state.training_set, state.model, "herding")
    seen = state.phase.num_seen
    assert experiment.workshop.num_classes > seen
    scarce = Room(Budget(bytes_total=seen), seen, state.memory)  # a byte for each
    with pytest.raises(UserError) as raised:
        select_within(*given, scarce)
    enough = int(
        re.search(r"anew with at least --exemplar_bytes_total=(\d+)", str(raised.value))[1]
    )
    room_now = Room(Budget(bytes_total=enough), seen, state.memory)
    kept = state.training_set.subset(select_within(*given, room_now))
    memory = state.memory.extended(kept.load_all(), kept.labels)
    check_last_share(memory, room_now.budget, experiment.workshop.num_classes)


@pytest.mark.parametrize("num_phases", [1, 5])
def test_bytes_in_all_that_are_advised_leave_one_of_each_class_in_the_end(num_phases):
    source = load_digits()
    settings = Settings().changed(
        codec="jpeg", exemplar_bytes_total=100_000, base_classes=5, num_phases=num_phases
    )
    protocol = make_protocol(settings, 10)
    flag = expected_quotas(settings, protocol, source, protocol.phases).to_have(1, protocol)
    advised = settings.changed(exemplar_bytes_total=int(flag.partition("=")[2]))
    quotas = expected_quotas(advised, protocol, source, protocol.phases)
    assert quotas.of(protocol.phases[-1]) >= 1


def test_images_without_content_have_a_cost():
    """A lossless mosaic of them takes as many bytes as one of them."""
    memory = ExemplarMemory.empty((8, 8, 1), codec="webp_lossless")
    cost = Cost.of(memory, np.zeros((8, 8, 8, 1), np.uint8))
    assert cost.number_in(500) >= 1
    assert cost.number_in(0) == 0


def test_the_quality_of_the_flag_is_that_of_the_memory(begun):
    experiment, state = begun
    memory = make_exemplars(
        *(experiment.workshop, state.phase, state.training_set),
        *(state.memory, state.model, state.stage("exemplars")),
    ).memory
    assert (memory.codec, memory.quality) == ("jpeg", 50)
    assert 0 < memory.bytes_by_class().max() <= 1000


@pytest.mark.parametrize(("codec", "base_classes"), [("jpeg", 4), ("webp_lossless", 6)])
@pytest.mark.parametrize("wanted", [5, 10])
def test_bytes_that_are_advised_hold_as_many_of_every_class(codec, base_classes, wanted):
    """Though images of one phase alone were looked at."""
    source = load_digits()
    settings = Settings().changed(
        codec=codec, exemplar_bytes_per_class=2000, base_classes=base_classes, num_phases=2
    )
    protocol = make_protocol(settings, 10)
    last = protocol.phases[-1:]
    flag = expected_quotas(settings, protocol, source, last).to_have(wanted, protocol)
    num_bytes = int(flag.removeprefix("--exemplar_bytes_per_class="))
    memory = ExemplarMemory.empty((8, 8, 1), codec=codec)
    held = [
        memory.number_within(source.training_set([label]).load_all(), num_bytes)
        for label in range(10)
    ]
    assert wanted <= min(held) <= 1.3 * wanted


def check(**values):
    settings = Settings().changed(codec="jpeg", **values)
    method, protocol = method_of(settings), make_protocol(settings, 10)
    source = load_digits()
    check_settings(settings, method, protocol)
    check_new_run(settings, method, protocol, source)


def method_of(settings):
    return METHODS[settings.training.method](settings.training)


def test_bytes_for_less_than_an_exemplar_are_refused_before_work():
    with pytest.raises(UserError, match="pass at least --exemplar_bytes_total=") as raised:
        check(exemplar_bytes_total=1000)
    advised = str(raised.value).split("bytes_total=")[-1].split(",")[0]
    check(exemplar_bytes_total=2 * int(advised))
    with pytest.raises(UserError, match=f"leaves 0 bytes .* pass at least .*_total={advised}"):
        check(exemplar_bytes_total=3)  # less than a byte for each


def test_classes_whose_exemplars_serve_no_later_phase_do_not_decide():
    """Of the two new ones of the last phase one has a single image and one compresses badly."""
    rng = np.random.default_rng(0)
    training = {label: np.full((30, 8, 8, 1), 20 * label, np.uint8) for label in range(4)}
    training[2], training[3] = training[2][:1], rng.integers(0, 256, (30, 8, 8, 1), np.uint8)
    source = Digits(training, training, list("abcd"))
    settings = Settings().changed(codec="jpeg", exemplar_bytes_per_class=600)
    settings = settings.changed(base_classes=2, num_phases=1, class_order=(0, 1, 2, 3))
    settings = settings.changed(adjust_old_exemplars=True, adjust_subsets=4)
    protocol = make_protocol(settings, 4)
    check_new_run(settings, method_of(settings), protocol, source)
    alone = [
        expected_quotas(settings, protocol, source, [phase]).of(phase) for phase in protocol.phases
    ]
    assert alone[0] > 3 * alone[1] > 0
    single = make_protocol(settings.changed(class_order=(0, 1, 3, 2), base_classes=3), 4)
    (last,) = single.phases[1:]
    assert expected_quotas(settings, single, source, [last]).of(last) >= 1


def test_a_small_class_has_images_to_hold_out(begun):
    """A class of eight of which two fit and two are to be held out."""
    _, state = begun
    images = ArrayImageSet(np.zeros((8, 8, 8, 1), np.uint8), np.zeros(8, np.int64))
    two = Room(Budget(bytes_per_class=2 * 64), 1, ExemplarMemory.empty((8, 8, 1)))
    assert two.to_leave(images, np.arange(8), otherwise=6) == 6
    assert two.to_leave(images, np.arange(8), otherwise=0) == 4


def test_advice_in_bytes_works():
    with pytest.raises(UserError, match="a single exemplar takes") as raised:
        check(exemplar_bytes_per_class=10)
    one = int(str(raised.value).split("--exemplar_bytes_per_class=")[-1].split(",")[0])
    with pytest.raises(UserError, match="--method=bic holds out 1") as raised:
        check(exemplar_bytes_per_class=one, method="bic")
    advised = str(raised.value).split("--exemplar_bytes_per_class=")[1].split(")")[0]
    assert int(advised) > one
    check(exemplar_bytes_per_class=int(advised), method="bic")


@pytest.mark.parametrize("adjusts", [False, True], ids=["held out", "adjusted"])
@pytest.mark.parametrize("flag", ["exemplar_bytes_per_class", "exemplar_bytes_total"])
def test_what_bytes_came_to_hold_is_checked_again(flag, adjusts):
    """BiC needs two exemplars, one to hold out, and an adjustment needs two, one to measure by."""
    values = {"adjust_old_exemplars": True} if adjusts else {"method": "bic"}
    settings = Settings().changed(base_classes=4, num_phases=2, codec="webp_lossless", **values)
    protocol = make_protocol(settings, 10)
    source = load_digits()
    images = [source.training_set([label]).load_all()[:4] for label in range(4)]
    empty = ExemplarMemory.empty((8, 8, 1), codec="webp_lossless")
    everything = empty.extended(np.concatenate(images), np.repeat(range(4), 4))
    of_one = int(everything.trimmed(1).bytes_by_class().max())

    def check_after_phase_0(num_bytes):
        settings_now = settings.changed(**{flag: num_bytes})
        memory = kept_within(everything, make_budget(settings_now.exemplar), 4)
        method, phase = method_of(settings_now), protocol.phases[1]
        check_exemplars(settings_now, method, protocol, phase, memory)
        return memory

    with pytest.raises(UserError, match=f"in another run: pass --{flag}=") as raised:
        check_after_phase_0(of_one if flag.endswith("class") else 4 * of_one)
    advised = str(raised.value).split(f"{flag}=")[1]
    assert np.bincount(check_after_phase_0(int(re.match("[0-9]+", advised)[0])).labels).min() >= 2
