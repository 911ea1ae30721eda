"""Gradient rate, its interval, and the verdict, from a profile of `backprop_norm` over the layers.

The one place where a profile becomes a rate; training, diagnosis, theory and figures all call it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

Verdict = Literal["vanishing", "healthy", "exploding"]

SATURATED = 0.9
"""The share of a layer's saturated units over which `healthy` is not said without it."""


@dataclass(frozen=True)
class GradientRate:
    """Factor on `backprop_norm` from a layer to the one before it.

    Attributes:
        rate: exp of the mean increment of log `backprop_norm` from layer l+1 to l; under 1 where
            gradients vanish.
        low, high: 95 % interval (Student's t over the increments); nan with fewer than two
            increments.
        increments: how many increments entered.
    """

    rate: float
    low: float
    high: float
    increments: int


def increments(profile: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """log b_l - log b_{l+1} for each neighbouring pair of positive, finite values.

    Args:
        profile: `backprop_norm` of the hidden layers, layer 1 first. A zero is a signal that has
            underflowed and a non-finite value one that has overflowed: neither has a logarithm, so
            their pairs are left out.
    """
    values = np.asarray(profile, dtype=np.float64)
    usable = np.isfinite(values) & (values > 0)
    logs = np.log(np.where(usable, values, 1.0))
    return (logs[:-1] - logs[1:])[usable[:-1] & usable[1:]]


def gradient_rate(
    profile: Sequence[float] | NDArray[np.float64], level: float = 0.95
) -> GradientRate:
    """The gradient rate of a profile of the hidden layers (layer 1 first).

    The interval comes from the spread of the increments, which are nearly independent. log
    `backprop_norm` is a random walk over the layers: the interval of a least-squares line, which
    takes it for noise around a line, covers the rate 16 times in 100 instead of 95.
    """
    steps = increments(profile)
    if len(steps) == 0:
        return GradientRate(math.nan, math.nan, math.nan, 0)
    mean = float(steps.mean())
    half = math.nan
    if len(steps) > 1:
        half = float(
            student.ppf(0.5 + level / 2, len(steps) - 1) * steps.std(ddof=1) / math.sqrt(len(steps))
        )
    return GradientRate(math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(steps))


def gradient_ratio(profile: Sequence[float] | NDArray[np.float64]) -> float:
    """`backprop_norm` of layer 1 over the last hidden layer; inf where it overflows on the way; nan
    where there is no hidden layer, or none reaches the last one: it stands in a residual branch
    that begins at zero, and says nothing of the others.
    """
    if len(profile) == 0:
        return math.nan
    if np.isinf(profile).any():  # what comes below an inf may be inf - inf
        return math.inf
    last = float(profile[-1])
    return math.nan if last == 0 else float(profile[0]) / last


Learned = Literal["learned", "chance"]


def learned(accuracy: float, examples: int, classes: int) -> Learned:
    """Whether an accuracy is above that of guessing: by more than three standard errors of a guess,
    which chance alone passes once in 700 runs.

    Args:
        accuracy: share of right answers.
        examples: how many were asked for.
        classes: how many answers there are, equally frequent.
    """
    guess = 1 / classes
    error = math.sqrt(guess * (1 - guess) / examples)
    return "learned" if accuracy > guess + 3 * error else "chance"


def verdict(ratio: float, vanishing_below: float, exploding_above: float) -> Verdict | None:
    """Vanishing, healthy or exploding, from the ratio of `gradient_ratio`; None where there is no
    ratio.
    """
    if math.isnan(ratio):
        return None
    if ratio < vanishing_below:
        return "vanishing"
    return "exploding" if ratio > exploding_above else "healthy"
