"""What several seeds say: a mean and its 95% interval."""

import math
import statistics
from collections.abc import Sequence

#: two-sided 95% points of Student's t for 1, 2, ... degrees of freedom
_STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)


def mean_and_interval(values: Sequence[float | None]) -> tuple[float, float | None]:
    """Returns the mean and the half width of its 95% interval, t * s / sqrt(n).

    The half width is None for a single value. Beyond 20 degrees of freedom the interval is that
    of 20, which is slightly too wide.

    Args:
        values: one of each run, at least one; where one is None, untested, the mean is NaN.
    """
    if None in values:
        return math.nan, None
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None
    point = _STUDENT[min(len(values) - 1, len(_STUDENT)) - 1]
    return mean, point * statistics.stdev(values) / len(values) ** 0.5
