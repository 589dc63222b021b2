"""What several seeds say: a mean, its 95% interval, and the standard deviation beside it."""

import dataclasses
import math
import statistics
from collections.abc import Sequence

#: values from which on there is an interval: that of two would reach 12.7 standard errors
FEWEST_FOR_INTERVAL = 3

#: two-sided 95% points of Student's t for as many values, one more, ...; for these numbers alone
#: every installation would need SciPy
_STUDENT = (
    *(4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201),
    *(2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)


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
        return mean_and_interval(self.values)[1]


def mean_and_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns the mean and the half width of its 95% interval, t * s / sqrt(n).

    The half width is None below `FEWEST_FOR_INTERVAL` values. Beyond 21 values the point is that
    for 21, which is slightly too large.

    Args:
        values: one of each run, at least one.
    """
    mean = statistics.fmean(values)
    if len(values) < FEWEST_FOR_INTERVAL:
        return mean, None
    point = _STUDENT[min(len(values), len(_STUDENT) + 2) - FEWEST_FOR_INTERVAL]
    return mean, point * statistics.stdev(values) / len(values) ** 0.5
