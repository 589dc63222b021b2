"""Scikit-learn's handwritten digits: a source that needs no download, for trials and tests.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998, the
1797 images that `sklearn.datasets.load_digits` ships.
"""

import numpy as np

from mnemonics_tf.data.source import InMemorySource, split_by_class
from mnemonics_tf.extras import extra

_NUM_CLASSES = 10
_MAX_VALUE = 16  # grey levels are 0..16
_TEST_SHARE = 1 / 3
_SPLIT_SEED = 1993


class Digits(InMemorySource):
    """Ten classes of 8x8 grey images, about 120 for training and 60 for test in each.

    Mean and standard deviation are those of the training part. Augmentation shifts the image
    only: a mirrored digit is another digit or none.
    """

    name = "digits"
    channel_mean = (0.3060,)
    channel_std = (0.3764,)
    augmentation = "shift"


def load_digits() -> Digits:
    """Reads the digits and splits them into a training and a test part.

    There is no official split. Ours is stratified: a third of every class (rounded) is for test,
    drawn with a seed of its own, so that the split is the same in every run.

    Raises:
        UserError: if scikit-learn is not installed.
    """
    with extra("demo", "the data set digits"):
        from sklearn import datasets
    values, labels = datasets.load_digits(return_X_y=True)
    images = np.round(values * 255 / _MAX_VALUE).astype(np.uint8).reshape(-1, 8, 8, 1)
    random = np.random.RandomState(_SPLIT_SEED)
    training, test = {}, {}
    for c, class_images in split_by_class(images, labels).items():
        order = random.permutation(len(class_images))
        num_test = round(len(class_images) * _TEST_SHARE)
        test[c] = class_images[np.sort(order[:num_test])]
        training[c] = class_images[np.sort(order[num_test:])]
    source = Digits(training, test, [str(c) for c in range(_NUM_CLASSES)])
    source.origin = "scikit-learn, a third of each class for test"
    return source
