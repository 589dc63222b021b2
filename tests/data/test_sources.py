import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest

from mnemonics_tf.data import sources
from mnemonics_tf.data.source import DataSource, InMemorySource
from mnemonics_tf.errors import UserError


class Source(InMemorySource):
    name = "made_up"
    channel_mean = (0.0,)
    channel_std = (1.0,)
    augmentation = "none"


def images_of(value: int, count: int) -> np.ndarray:
    return np.full((count, 2, 2, 1), value, np.uint8)


def make_source(training: dict[int, np.ndarray] | None = None) -> Source:
    training = training or {c: images_of(c, 3 + c) for c in range(3)}
    return Source(training, {c: images_of(100 + c, 2) for c in range(3)}, ["a", "b", "c"])


def test_sets_are_sorted_by_class_in_the_order_given():
    source = make_source()
    training = source.training_set([2, 0])
    assert training.labels.tolist() == [2] * 5 + [0] * 3
    assert training.images[:, 0, 0, 0].tolist() == [2] * 5 + [0] * 3
    test = source.test_set(np.array([1, 0]))
    assert test.labels.tolist() == [1, 1, 0, 0]
    assert test.images[:, 0, 0, 0].tolist() == [101, 101, 100, 100]
    assert source.image_shape == (2, 2, 1)


def test_set_of_no_class_is_empty():
    empty = make_source().training_set([])
    assert len(empty) == 0
    assert empty.image_shape == (2, 2, 1)


def test_released_training_images_can_no_longer_be_reached():
    training = {c: images_of(c, 3) for c in range(3)}
    released, kept = weakref.ref(training[1]), weakref.ref(training[2])
    source = make_source(training)
    del training
    still_alive = source.training_set([1])
    source.release([1])
    gc.collect()
    assert released() is None
    assert kept() is not None
    assert len(still_alive) == 3
    with pytest.raises(LookupError, match="released"):
        source.training_set([0, 1])
    assert len(source.training_set([0, 2])) == 6


def test_release_keeps_test_images_and_counts_and_may_be_repeated():
    source = make_source()
    source.release([0, 1])
    source.release([1])
    assert len(source.test_set([0, 1])) == 4
    assert source.training_counts().tolist() == [3, 4, 5]


def test_counts_cannot_be_changed_from_outside():
    source = make_source()
    source.training_counts()[0] = 0
    assert source.training_counts()[0] == 3


@pytest.mark.parametrize("method", ["training_set", "test_set", "release"])
@pytest.mark.parametrize("unknown", [-1, 3])
def test_unknown_class_is_named(method, unknown):
    with pytest.raises(LookupError, match=rf"{unknown}.*made_up has 0\.\.2"):
        getattr(make_source(), method)([0, unknown])


def test_unknown_source_lists_the_known_ones():
    with pytest.raises(UserError, match="=cifar: known are cifar100.*digits"):
        sources.create("cifar", "", False)


def test_registry_opens_the_source_under_its_name():
    assert sources.create("digits", "", False).name == "digits"


@pytest.mark.slow
def test_registry_imports_no_source_before_it_is_asked_for():
    program = (
        "import sys, mnemonics_tf.data.sources;"
        "print([m for m in sys.modules if m.startswith(('mnemonics_tf.data.cifar',"
        "'mnemonics_tf.data.digits', 'tensorflow_datasets'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_pixel_more_or_less_is_another_digest():
    source = make_source()
    digests = source.digests
    source.release([0, 1])
    assert source.digests == digests == make_source().digests
    training = {c: images_of(c, 3 + c) for c in range(3)}
    training[2][1, 0, 1, 0] += 1
    changed = make_source(training).digests
    assert changed["test"] == digests["test"]
    assert changed["training"] != digests["training"]
    training[2][1, 0, 1, 0] -= 1
    assert make_source(training).digests == digests
    moved = {0: training[0][:2], 1: np.concatenate([training[0][2:], training[1]]), 2: training[2]}
    assert make_source(moved).digests != digests


def test_a_source_of_ones_own_has_a_digest_without_ado():
    class Own(Source):
        _digest = DataSource._digest

    def own(value: int) -> dict[str, str]:
        parts = ({c: images_of(c + value * (c == k), 3) for c in range(2)} for k in (0, 1))
        return Own(*parts, ["a", "b"]).digests

    assert own(0) == own(0)
    assert set(own(0)) == {"training", "test"}
    assert all(own(0)[part] != own(1)[part] for part in own(0))


@pytest.mark.parametrize("name", ["npz", "folder", "cifar100", "imagenet", "tfds:made_up"])
@pytest.mark.parametrize("place", ["x" * 5000, "a\0b"])
def test_places_that_no_data_can_have(name, place):
    with pytest.raises(UserError, match="--data_dir=.* is no path that can be used"):
        sources.create(name, place, False)
