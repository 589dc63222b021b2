"""What is said of the training that lies ahead."""

import logging

import pytest

from mnemonics_tf.monitoring.outlook import Outlook, phases_in_words

IMAGES = {("train", 0): 1000, ("train", 1): 400, ("train", 2): 600}


def test_the_time_left_counts_all_phases_once(caplog):
    outlook = Outlook(IMAGES)
    with caplog.at_level(logging.INFO, "mnemonics_tf"):
        # A tenth of phase 0, 100 images, took 10 s: 1,900 images are left.
        outlook.epoch_done("train", 0, share=0.1, seconds=10, done=0.1)
        outlook.epoch_done("train", 0, share=0.2, seconds=20, done=0.2)
    assert [r.getMessage().split(" at this")[0] for r in caplog.records] == [
        "the training that is left takes about 3:10"
    ]


def test_a_process_that_goes_on_measures_its_own_part(caplog):
    with caplog.at_level(logging.INFO, "mnemonics_tf"):
        # Half of phase 1 is done, a quarter of it, 100 images, in 20 s by this process.
        Outlook(IMAGES).epoch_done("train", 1, share=0.5, seconds=20, done=0.25)
    assert "takes about 2:40 at" in caplog.text  # 200 and 600 images


def test_what_takes_less_than_a_minute_is_not_told(caplog):
    with caplog.at_level(logging.INFO, "mnemonics_tf"):
        Outlook(IMAGES).epoch_done("train", 2, share=0.5, seconds=2, done=0.5)
    assert not caplog.records


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ([10], "10 classes in one phase"),
        ([50, 10, 10], "50 classes, then 2 phases of 10"),
        ([2, 3], "2 classes, then 1 phase of 3"),
        ([2, 1, 3], "2 classes, then 2 phases of 1, 3"),
    ],
)
def test_phases_in_words(sizes, words):
    assert phases_in_words(sizes) == words
