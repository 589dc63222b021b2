import gc
import weakref

import numpy as np
import pytest

from mnemonics_tf.data.access import PhaseData
from mnemonics_tf.data.protocol import ClassIncrementalProtocol
from mnemonics_tf.data.source import InMemorySource

ORDER = [2, 3, 0, 1]


class Source(InMemorySource):
    name = "made_up"
    channel_mean = (0.0,)
    channel_std = (1.0,)
    augmentation = "none"


def images_of(value: int, count: int) -> np.ndarray:
    return np.full((count, 2, 2, 1), value, np.uint8)


def make_source() -> tuple[Source, dict[int, weakref.ref]]:
    """Returns a source, and for each class a reference that dies with its training images."""
    training = {c: images_of(c, 3) for c in range(4)}
    references = {c: weakref.ref(images) for c, images in training.items()}
    test = {c: images_of(100 + c, 2) for c in range(4)}
    return Source(training, test, list("abcd")), references


def test_a_phase_gets_its_own_classes_as_labels():
    protocol = ClassIncrementalProtocol(ORDER, 2, 2)
    data = PhaseData(make_source()[0], protocol, keep_past=False)
    for phase, labels, originals in zip(
        protocol.phases, ([0, 1], [2], [3]), ([2, 3], [0], [1]), strict=True
    ):
        images = data.training_set(phase)
        assert images.labels.tolist() == np.repeat(labels, 3).tolist()
        assert images.images[:, 0, 0, 0].tolist() == np.repeat(originals, 3).tolist()


def test_test_images_are_of_all_classes_seen():
    protocol = ClassIncrementalProtocol(ORDER, 2, 2)
    data = PhaseData(make_source()[0], protocol, keep_past=False)
    images = data.test_set(protocol.phases[1])
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert images.images[:, 0, 0, 0].tolist() == [102, 102, 103, 103, 100, 100]


def test_training_data_that_has_passed_is_gone():
    protocol = ClassIncrementalProtocol(ORDER, 2, 2)
    source, references = make_source()
    data = PhaseData(source, protocol, keep_past=False)
    data.training_set(protocol.phases[0])
    data.training_set(protocol.phases[1])
    gc.collect()
    assert {c for c, reference in references.items() if reference() is None} == {2, 3}
    with pytest.raises(LookupError, match="released"):
        data.training_set(protocol.phases[0])
    with pytest.raises(LookupError, match="released"):
        source.training_set([2])
    assert len(data.training_set(protocol.phases[1]).labels) == 3  # the phase's own stays


def test_a_run_that_begins_in_a_late_phase_reaches_no_earlier_data():
    protocol = ClassIncrementalProtocol(ORDER, 2, 2)
    source, references = make_source()
    PhaseData(source, protocol, keep_past=False).training_set(protocol.phases[2])
    gc.collect()
    assert [c for c, reference in references.items() if reference() is not None] == [1]


def test_the_upper_bound_keeps_everything():
    protocol = ClassIncrementalProtocol(ORDER, 2, 2)
    source, references = make_source()
    data = PhaseData(source, protocol, keep_past=True)
    data.training_set(protocol.phases[1])
    images = data.training_set(protocol.phases[2])
    assert images.labels.tolist() == np.repeat([0, 1, 2, 3], 3).tolist()
    assert images.images[:, 0, 0, 0].tolist() == np.repeat(ORDER, 3).tolist()
    assert all(reference() is not None for reference in references.values())
