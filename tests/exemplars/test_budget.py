"""What may be kept: numbers of exemplars, or bytes of what is stored of them."""

import numpy as np
import pytest

from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.budget import Budget, check_last_share, kept_within, make_budget
from mnemonics_tf.exemplars.codecs import CODECS
from mnemonics_tf.exemplars.fitting import first_that_fit
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.settings import ExemplarSettings


def test_a_fixed_number_for_every_class():
    budget = Budget(per_class=20)
    assert [budget.quota(seen) for seen in (1, 50, 100)] == [20, 20, 20]


def test_a_total_is_shared_by_the_classes_seen():
    budget = Budget(total=2000)
    assert [budget.quota(seen) for seen in (50, 60, 100)] == [40, 33, 20]
    assert all(budget.quota(seen) * seen <= 2000 for seen in range(1, 101))


def test_a_total_that_is_too_small():
    assert Budget(total=10).quota(10) == 1
    with pytest.raises(UserError, match="--exemplars_total=10 .* 11 classes: pass at least 11"):
        Budget(total=10).quota(11)
    with pytest.raises(UserError, match="--exemplar_bytes_total=10 leaves no byte"):
        Budget(bytes_total=10).quota(11)


@pytest.mark.parametrize(
    "budget", [{}, {"per_class": 20, "total": 2000}, {"per_class": 20, "bytes_total": 1}]
)
def test_one_budget_it_must_be(budget):
    with pytest.raises(UserError, match="exactly one of --exemplars_per_class"):
        Budget(**budget)


def test_bytes_are_shared_as_numbers_are():
    assert Budget(bytes_per_class=61_440).quota(100) == 61_440
    assert Budget(bytes_total=6_144_000).quota(60) == 102_400


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, Budget(per_class=20)),
        ({"exemplars_total": 90, "exemplars_per_class": 3}, Budget(total=90)),
        ({"exemplar_bytes_per_class": 900}, Budget(bytes_per_class=900)),
        ({"exemplar_bytes_total": 900}, Budget(bytes_total=900)),
    ],
)
def test_the_budget_that_settings_ask_for(wanted, expected):
    assert make_budget(ExemplarSettings(**wanted)) == expected


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        (
            {"exemplar_bytes_per_class": 9, "exemplars_per_class": 3},
            "--exemplar_bytes_per_class=9 and --exemplars_per_class=3",
        ),
        (
            {"exemplar_bytes_total": 9, "exemplars_total": 3},
            "--exemplars_total=3 and --exemplar_bytes_total=9",
        ),
        (
            {"exemplar_bytes_total": 9, "exemplar_bytes_per_class": 3},
            "--exemplar_bytes_per_class=3 and --exemplar_bytes_total=9",
        ),
    ],
)
def test_budgets_that_contradict_each_other(wanted, named):
    with pytest.raises(UserError, match=f"{named} .* pass one of them, and leave the others out"):
        make_budget(ExemplarSettings(**wanted))


# Bytes of what is stored


def waves(count: int, side: int = 8) -> np.ndarray:
    """Images that take the more bytes the later they come."""
    generator = np.random.default_rng(1)
    y, x = np.mgrid[:side, :side] / side
    smooth = 128 + 80 * np.sin(3 * x + y)[None, :, :, None]
    noise = (
        generator.normal(0, 1, (count, side, side, 3))
        * np.linspace(1, 40, count)[:, None, None, None]
    )
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("codec", CODECS)
def test_a_class_takes_no_more_than_its_bytes_and_wastes_none(codec):
    images = waves(24)
    labels = np.repeat([0, 1], [20, 4])
    memory = ExemplarMemory(images, labels, codec=codec)
    limit = int(memory.trimmed(9).bytes_by_class()[0]) + 1
    kept = memory.kept(memory.rows_within(limit))
    assert kept.labels.tolist() == [0] * 9 + [1] * int(np.sum(kept.labels == 1))
    assert kept.bytes_by_class().max() <= limit
    assert kept.bytes_used == kept.bytes_by_class().sum()
    # What a file holds beside the labels and sizes are these bytes.
    stored = kept.arrays()
    assert kept.bytes_used == stored["images" if codec == "pixels" else "codes"].nbytes
    np.testing.assert_array_equal(kept.images[:9], memory.images[:9])
    np.testing.assert_array_equal(kept.images_at(np.array([8, 2])), memory.images[[8, 2]])
    assert memory.number_within(images[:20], limit) == 9
    assert memory.kept(memory.rows_within(10**6)) is memory


@pytest.mark.parametrize("codec", CODECS)
def test_not_even_one(codec):
    memory = ExemplarMemory(waves(6), np.repeat([0, 1], 3), codec=codec)
    needed = int(memory.trimmed(1).bytes_by_class()[1])
    with pytest.raises(UserError, match="a single exemplar takes") as raised:
        kept_within(memory, Budget(bytes_total=20), 2)
    assert f"begin anew with at least --exemplar_bytes_total={2 * needed}, and" in str(raised.value)
    assert "--phase0_from=RUN keeps" in str(raised.value)
    assert len(kept_within(memory, Budget(bytes_total=2 * needed), 2)) >= 2


@pytest.mark.parametrize("codec", CODECS)
def test_the_share_of_a_class_in_the_end_is_asked_of_the_first_exemplars(codec):
    memory = ExemplarMemory(waves(6), np.repeat([0, 1], 3), codec=codec)
    needed = int(memory.trimmed(1).bytes_by_class().max())
    check_last_share(memory, Budget(bytes_total=4 * needed), 4)
    check_last_share(memory, Budget(total=4), 4)
    with pytest.raises(UserError, match=f"anew with at least --exemplar_bytes_total={4 * needed}"):
        check_last_share(memory, Budget(bytes_total=4 * needed - 1), 4)
    with pytest.raises(UserError, match=f"pass at least --exemplar_bytes_total={4 * needed}"):
        check_last_share(memory, Budget(bytes_total=4 * needed - 1), 4, begun=False)


class Growing:
    """A codec in which n images take n * n bytes."""

    def __init__(self):
        self.sizes = []

    def encode(self, images):
        self.sizes.append(len(images))
        return images

    def decode(self, code):
        return code

    def num_bytes(self, code):
        return len(code) ** 2


@pytest.mark.parametrize("limit", [0, 1, 2, 99, 100, 101, 2499, 9999])
def test_a_picture_s_images_are_found_in_few_tries(limit):
    codec = Growing()
    assert first_that_fit(codec, np.zeros(100), limit) == int(np.sqrt(limit))
    assert len(codec.sizes) < 12
