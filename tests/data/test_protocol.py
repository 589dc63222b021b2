import numpy as np
import pytest

from mnemonics_tf.data.protocol import ClassIncrementalProtocol, class_order
from mnemonics_tf.errors import UserError


def test_order_of_cifar100_is_the_published_one():
    order = class_order(100, 1993)
    assert order[:10] == (68, 56, 78, 8, 23, 84, 90, 65, 74, 76)
    assert sorted(order) == list(range(100))


def test_seed_decides_the_order():
    assert class_order(100, 1) != class_order(100, 1993)
    assert class_order(100, 7) == class_order(100, 7)


@pytest.mark.parametrize(("num_phases", "step"), [(5, 10), (10, 5), (25, 2)])
def test_phases_share_the_classes_after_the_base(num_phases, step):
    phases = ClassIncrementalProtocol(range(100), 50, num_phases).phases
    assert len(phases) == num_phases + 1
    assert (phases[0].new_classes, phases[0].num_old) == (range(50), 0)
    for i, phase in enumerate(phases):
        assert phase.index == i
        assert phase.num_seen == 50 + i * step
        assert phase.num_old + phase.num_new == phase.num_seen
    for phase in phases[1:]:
        assert phase.num_new == step
    taught = [label for phase in phases for label in phase.new_classes]
    assert taught == list(range(100))


def test_no_incremental_phase_teaches_everything_at_once():
    (phase,) = ClassIncrementalProtocol([1, 0, 2], 3, 0).phases
    assert phase.new_classes == phase.seen_classes == range(3)


def test_labels_are_positions_in_the_order():
    protocol = ClassIncrementalProtocol([3, 1, 0, 2], 2, 2)
    labels = protocol.labels_of(np.array([3, 3, 0, 2, 1]))
    assert labels.tolist() == [0, 0, 2, 3, 1]
    assert labels.dtype == np.int32
    assert protocol.original_ids([0, 2]) == [3, 0]
    assert protocol.labels_of(np.array(protocol.original_ids(range(4)))).tolist() == [0, 1, 2, 3]


def test_hash_tells_orders_apart():
    order = class_order(10, 1993)
    swapped = (order[1], order[0], *order[2:])
    first = ClassIncrementalProtocol(order, 5, 5).order_hash
    assert first == ClassIncrementalProtocol(list(order), 2, 2).order_hash
    assert first != ClassIncrementalProtocol(swapped, 5, 5).order_hash


def test_uneven_division_names_the_phases_that_fit():
    with pytest.raises(UserError, match="--num_phases=7 .*valid values: 1, 2, 5, 10, 25, 50$"):
        ClassIncrementalProtocol(range(100), 50, 7)
    with pytest.raises(UserError, match="valid values: 1, 2, 4$"):
        ClassIncrementalProtocol(range(6), 2, 0)
    with pytest.raises(UserError, match="valid values: 0$"):
        ClassIncrementalProtocol(range(6), 6, 1)


@pytest.mark.parametrize("base_classes", [0, -1, 101])
def test_base_classes_out_of_range(base_classes):
    with pytest.raises(UserError, match=f"--base_classes={base_classes}.* from 1 to 100"):
        ClassIncrementalProtocol(range(100), base_classes, 5)


@pytest.mark.parametrize("order", [[0, 1, 1], [1, 2, 3], [0, 2]])
def test_an_order_that_is_no_permutation(order):
    with pytest.raises(UserError, match="no permutation of 0.."):
        ClassIncrementalProtocol(order, 1, 1)
