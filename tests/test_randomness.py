import numpy as np

from mnemonics_tf.randomness import some_of_each


def test_what_is_drawn_of_a_class_depends_on_it_alone():
    labels = np.array([0, 1, 0, 1, 0, 1, 2, 0])
    drawn = some_of_each(labels, {0: 2, 1: 1, 2: 5}, 3, "held out")
    assert np.bincount(labels[drawn], minlength=3).tolist() == [2, 1, 1]
    # As every version has it: runs go on with the images that they held out.
    assert np.flatnonzero(drawn).tolist() == [0, 3, 4, 6]
    # The first and third image of class 0 wherever it has four.
    others = some_of_each(np.array([0, 0, 1, 1, 0, 0]), {0: 2}, 3, "held out")
    assert np.flatnonzero(others).tolist() == [0, 4]
    assert not np.array_equal(some_of_each(labels, {0: 2, 1: 1, 2: 5}, 4, "held out"), drawn)
