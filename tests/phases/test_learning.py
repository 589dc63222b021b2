import types

import numpy as np
import pytest

from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.budget import check_last_share, kept_within, make_budget
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.phases.learning import tell_where_none_fits, where_one_fits
from mnemonics_tf.settings import Settings


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
