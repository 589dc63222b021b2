"""Arrays of labelled images as a source; what nobody says of them beforehand is measured."""

from collections.abc import Mapping, Sequence

import numpy as np

from mnemonics_tf.data.source import InMemorySource
from mnemonics_tf.errors import UserError


def in_memory_source(
    name: str,
    training: dict[int, np.ndarray],
    test: dict[int, np.ndarray],
    classes: Mapping[int, str],
) -> InMemorySource:
    """Returns a source over arrays that measures mean and deviation of the training images.

    Args:
        name: of the source.
        training: original class id -> uint8 `[n, h, w, c]`.
        test: the same for the test part.
        classes: original class id -> name.

    Raises:
        UserError: if a class lacks training or test images.
    """
    for part, images in (("training", training), ("test", test)):
        missing = [class_name for c, class_name in classes.items() if c not in images]
        if missing:
            raise UserError(f"{name} has no {part} images of {', '.join(missing[:5])}")
    return MeasuredSource(name, training, test, [classes[c] for c in sorted(classes)])


class MeasuredSource(InMemorySource):
    """A source over arrays whose mean and deviation nobody knows beforehand.

    `channel_mean` and `channel_std` are those of all training images.

    Args:
        name: of the source.
        training: original class id -> uint8 `[n, h, w, c]`.
        test: the same for the test part.
        class_names: in the order of the original class ids.
    """

    def __init__(
        self,
        name: str,
        training: Mapping[int, np.ndarray],
        test: Mapping[int, np.ndarray],
        class_names: Sequence[str],
    ):
        super().__init__(training, test, class_names)
        self.name = name
        self.channel_mean, self.channel_std = self.statistics_of(self.original_ids)
        # Grey images are mostly written signs, which a mirror changes.
        self.augmentation = "shift" if self.image_shape[-1] == 1 else "crop_mirror"

    def statistics_of(self, classes):
        """Returns mean and deviation of the training images of these classes."""
        self._check_known(classes)
        self.refuse_released(classes)
        images = [self._held["training"][c] for c in sorted(classes)]
        pixels, axes = sum(part[..., 0].size for part in images), (0, 1, 2)
        mean = sum(part.sum(axes, np.float64) for part in images) / pixels
        # Sums of whole numbers are exact in any order; to square all pixels takes eight times them.
        squared = (np.einsum("nhwc,nhwc->c", part, part, dtype=np.float64) for part in images)
        squares = sum(squared) / pixels
        std = np.sqrt(np.maximum(squares - mean**2, 1.0))
        return tuple((mean / 255).tolist()), tuple((std / 255).tolist())
