"""Epochs that see a part of the exemplars, drawn anew, as many of each class."""

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.augmentation import Augmentation
from mnemonics_tf.data.draw import Draw, balanced, epoch_size, replayed
from mnemonics_tf.data.image_set import ArrayImageSet
from mnemonics_tf.data.pipeline import Normalization, Pipeline
from mnemonics_tf.training.feed import ResidentFeed, StreamedFeed

LABELS = np.repeat([0, 1, 2], [3, 8, 5])


def rows(draw: Draw, seed: int) -> np.ndarray:
    return draw.rows(tf.constant([seed, 1])).numpy()


def test_new_images_are_seen_always_and_exemplars_in_turn():
    exemplars = np.arange(16) < 11  # of the classes 0 and 1
    draw = replayed(LABELS, exemplars, 4)
    assert len(draw) == 5 + 3 + 4
    seen = [rows(draw, seed) for seed in range(20)]
    for epoch in seen:
        assert sorted(epoch[:5]) == [11, 12, 13, 14, 15]
        assert len(set(epoch)) == len(epoch) == 12  # nothing twice
        assert np.bincount(LABELS[epoch]).tolist() == [3, 4, 5]
    assert set(np.concatenate(seen)) == set(range(16))
    np.testing.assert_array_equal(rows(draw, 3), seen[3])
    assert len({tuple(sorted(epoch)) for epoch in seen}) > 5


@pytest.mark.parametrize("per_class", [0, 8, 9])
def test_nothing_is_drawn_where_all_are_seen(per_class):
    assert replayed(LABELS, np.arange(16) < 11, per_class) is None
    assert balanced(np.repeat([0, 1], 8), per_class) is None
    images = ArrayImageSet(np.zeros((16, 2, 2, 1), np.uint8), LABELS)
    assert epoch_size(images, None) == 16


@pytest.mark.parametrize(("most", "take"), [(0, 5), (4, 4), (100, 5)])
def test_a_balanced_epoch_has_as_many_of_each_class(most, take):
    draw = balanced(LABELS, most)
    for seed in range(4):
        epoch = rows(draw, seed)
        assert np.bincount(LABELS[epoch]).tolist() == [take] * 3
        times = np.bincount(epoch, minlength=16)
        assert times[3:].max() == 1  # of those that have enough none twice
        assert times[:3].max() - times[:3].min() <= 1


def test_equal_classes_may_be_more_than_an_epoch_takes():
    draw = balanced(np.repeat([0, 1], 8), 3)
    assert np.bincount(rows(draw, 0) // 8).tolist() == [3, 3]


@pytest.mark.slow
@pytest.mark.parametrize("first_step", [0, 2])
def test_both_feeds_draw_the_same(first_step):
    generator = np.random.default_rng(0)
    images = ArrayImageSet(generator.integers(0, 256, (16, 2, 2, 1), np.uint8), LABELS)
    pipeline = Pipeline(Normalization((0.5,), (0.5,)), Augmentation(0, False), seed=1)
    draw, key = balanced(LABELS, 0), ("finetune", 1)
    strategy = tf.distribute.get_strategy()
    resident = ResidentFeed(pipeline, images, 4, key, False, draw)
    streamed = StreamedFeed(pipeline, images, 4, key, range(2), first_step, strategy, False, draw)
    for epoch in range(2):
        ours, theirs = resident.epoch(epoch), streamed.epoch(epoch)
        for step in range(first_step if epoch == 0 else 0, 4):
            one = resident.batch(ours, tf.constant(step, tf.int64))
            other = streamed.batch(theirs, None)
            for name in ("image", "label"):
                np.testing.assert_array_equal(one[name], other[name])
