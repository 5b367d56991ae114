"""Percentiles of a sample as named figures."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PERCENTS = (50, 95)


def percentiles(
    name: str, sample: Sequence[float] | NDArray[np.float64], *, digits: int | None = None
) -> dict[str, float]:
    """`name_p50` and `name_p95` of the sample, rounded to so many digits; None: to integers."""
    return {
        f"{name}_p{percent}": round(float(np.percentile(sample, percent)), digits)
        for percent in PERCENTS
    }
