"""What several seeds say: a mean, its 95% interval, and the standard deviation beside it."""

import dataclasses
import math
import statistics
from collections.abc import Sequence

#: two-sided 95% points of Student's t for 1, 2, ... degrees of freedom; for these numbers alone
#: every installation would need SciPy
_STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)

#: values from which on a picture shows an interval: that of two is 12.7 standard errors wide
FEWEST_FOR_INTERVAL = 3


def as_number(value: float | None) -> float:
    """Returns a figure of a run; NaN for what was not tested."""
    return math.nan if value is None else value


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure of several runs.

    Attributes:
        values: one of each run, at least one; NaN for what was not tested.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the values, with n - 1 below the sum; None for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def half_width(self) -> float | None:
        """Half width of the mean's 95% interval; None below `FEWEST_FOR_INTERVAL` values."""
        if len(self.values) < FEWEST_FOR_INTERVAL:
            return None
        return mean_and_interval(self.values)[1]


def mean_and_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns the mean and the half width of its 95% interval, t * s / sqrt(n).

    The half width is None for a single value. Beyond 20 degrees of freedom the interval is that
    of 20, which is slightly too wide.

    Args:
        values: one of each run, at least one.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None
    point = _STUDENT[min(len(values) - 1, len(_STUDENT)) - 1]
    return mean, point * statistics.stdev(values) / len(values) ** 0.5
