"""log10 of numbers over decades, and what of them has none."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FINITE, ZERO, NOT_FINITE = 0, 1, 2
"""Status of a number."""


def logarithms(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """log10 of the values, NaN where there is none, and their status."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log10(values)
    status = np.where(values == 0, ZERO, np.where(np.isfinite(values), FINITE, NOT_FINITE))
    return np.where(status == FINITE, logs, np.nan), status
