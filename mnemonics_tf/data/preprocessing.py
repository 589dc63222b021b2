"""What becomes of a run's images: fixed when it begins, whatever images come later."""

import dataclasses
from collections.abc import Sequence

from mnemonics_tf.data.source import DataSource


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What becomes of a run's images, whichever source they come from.

    Attributes:
        image_shape: `(height, width, channels)` of what the network sees.
        channel_mean: of x/255, one per channel.
        channel_std: of x/255, one per channel.
        augmentation: name of the training augmentation.
        fitting: how images come to that shape, as `DataSource.fitting` tells it.
    """

    image_shape: tuple[int, int, int]
    channel_mean: tuple[float, ...]
    channel_std: tuple[float, ...]
    augmentation: str
    fitting: str

    @classmethod
    def beginning_with(cls, source: DataSource, classes: Sequence[int]) -> "Preprocessing":
        """Returns that of a run whose first phase learns these classes of a source.

        Args:
            source: none of the classes' training images was released.
            classes: original class ids.
        """
        return cls._of(source, *source.statistics_of(classes))

    @classmethod
    def of_all(cls, source: DataSource) -> "Preprocessing":
        """Returns that of versions that measured all classes, those of later phases too."""
        return cls._of(source, source.channel_mean, source.channel_std)

    @classmethod
    def _of(
        cls, source: DataSource, mean: Sequence[float], std: Sequence[float]
    ) -> "Preprocessing":
        height, width, channels = map(int, source.image_shape)
        return cls(
            (height, width, channels),
            tuple(map(float, mean)),
            tuple(map(float, std)),
            source.augmentation,
            source.fitting,
        )
