"""The logarithm of an average of numbers that spread over many decades: in a deep network few
examples carry the gradient of a batch.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NARROW = 1.0
"""Variance of the logarithms up to which the first order in 1/size holds (a percent)."""
NUMBERS = 200_000
"""That are drawn, in averages of so many: a few milliseconds."""
LARGEST = 1024
"""Examples; the average over more hardly spreads."""
STEP = 0.15
"""Of the variance's logarithm: what is sampled is sampled on this grid, and interpolated."""


def log_mean(variance: float, size: int) -> tuple[float, float]:
    """Mean and variance of log (1/B Σ e^x_i), x_i independent normal with E e^x = 1.

    By sampling with fixed numbers: a sum of log-normal numbers has no closed form, and its second
    moment says nothing where it comes from one draw in a thousand.

    Args:
        variance: of x.
        size: B.
    """
    if size == 1:
        return -0.5 * variance, variance
    if variance <= NARROW:
        relative = math.expm1(variance) / size
        return -0.5 * math.log1p(relative), math.log1p(relative)
    place = math.log(variance) / STEP
    low = math.floor(place)
    a, b = (_sampled(index, min(size, LARGEST)) for index in (low, low + 1))
    part = place - low
    return a[0] + part * (b[0] - a[0]), a[1] + part * (b[1] - a[1])


@functools.lru_cache(maxsize=4096)
def _sampled(index: int, size: int) -> tuple[float, float]:
    variance = math.exp(index * STEP)
    x = math.sqrt(variance) * _normal(size) - 0.5 * variance
    logs = np.logaddexp.reduce(x, axis=1) - math.log(size)
    return float(logs.mean()), float(logs.var())


@functools.lru_cache(maxsize=8)
def _normal(size: int) -> Array:
    """The same for each variance; each row with its negative, so that the mean is exact."""
    half = np.random.default_rng(0).standard_normal((NUMBERS // (2 * size), size))
    return np.concatenate([half, -half])
