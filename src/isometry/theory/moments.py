"""Gaussian moments of an activation as functions of log q, fast enough to be asked for every layer
and example.

Depth 1000 at rate 0.25 is 10^-602: everything here is a logarithm or a ratio.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isometry.theory.meanfield import Nonlinearity
from isometry.theory.quadrature import rule_for

Array = NDArray[np.float64]

LOWEST = np.log(1e-24)
HIGHEST = np.log(1e24)
"""Beyond them φ is its own tangent, or its own asymptote: moments go on as powers of q."""

_SPACING = 0.2
_POINTS = 6


@dataclass(frozen=True)
class Moments:
    """Moments of φ at h = √q z, z ~ N(0, 1); arrays of one shape.

    Attributes:
        log_p: log E φ².
        log_slope: log E φ'².
        kurtosis: E φ⁴/(E φ²)².
        slope_kurtosis: E φ'⁴/(E φ'²)²; μ₂/μ₁² of Pennington et al. 2017.
        cross: E φ²φ'²/(E φ² E φ'²).
        tilt: E φ² z²/E φ²; d log p/d log q = (tilt - 1)/2 (Stein's lemma).
        slope_tilt: E φ'² z²/E φ'²; likewise for the slope.
        lean, slope_lean: E φ² z/E φ² and E φ'² z/E φ'².
    """

    log_p: Array
    log_slope: Array
    kurtosis: Array
    slope_kurtosis: Array
    cross: Array
    tilt: Array
    slope_tilt: Array
    lean: Array
    slope_lean: Array


_NAMES = tuple(Moments.__dataclass_fields__)


def exact(phi: Nonlinearity, q: float) -> Array:
    """All moments at one q, [9] in the order of `Moments`, by quadrature that splits at kinks."""
    squares = (lambda h: phi.phi(h) ** 2, lambda h: phi.phi_prime(h) ** 2)
    z, weight = rule_for(squares, q, phi.kinks)
    square = phi.phi(np.sqrt(q) * z) ** 2
    slope = phi.phi_prime(np.sqrt(q) * z) ** 2
    p = weight @ square
    s = weight @ slope
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.array(
            [
                np.log(p),
                np.log(s),
                weight @ square**2 / p**2,
                weight @ slope**2 / s**2,
                weight @ (square * slope) / (p * s),
                weight @ (square * z**2) / p,
                weight @ (slope * z**2) / s,
                weight @ (square * z) / p,
                weight @ (slope * z) / s,
            ]
        )


class MomentTable:
    """Moments at any q, interpolated in log q (six-point Lagrange on a grid of 0.2, relative error
    under 1e-6).

    Grid points are computed when they are first needed.
    """

    def __init__(self, phi: Nonlinearity):
        self.phi = phi
        self._grid: dict[int, Array] = {}

    def _row(self, index: int) -> Array:
        if index not in self._grid:
            self._grid[index] = exact(self.phi, float(np.exp(index * _SPACING)))
        return self._grid[index]

    def at(self, log_q: Array | float) -> Moments:
        """The moments at exp(log_q), of the shape of `log_q`."""
        log_q = np.asarray(log_q, dtype=np.float64)
        inside = np.clip(log_q, LOWEST, HIGHEST)
        values = self._interpolate(inside.ravel()).reshape(*log_q.shape, len(_NAMES))
        found = dict(zip(_NAMES, np.moveaxis(values, -1, 0), strict=True))
        beyond = np.where(log_q > HIGHEST, log_q - HIGHEST, np.minimum(log_q - LOWEST, 0.0))
        found["log_p"] = found["log_p"] + 0.5 * (found["tilt"] - 1) * beyond
        found["log_slope"] = found["log_slope"] + 0.5 * (found["slope_tilt"] - 1) * beyond
        return Moments(**found)

    def _interpolate(self, log_q: Array) -> Array:
        position = log_q / _SPACING
        first = np.floor(position).astype(int) - (_POINTS // 2 - 1)
        result = np.zeros((len(log_q), len(_NAMES)))
        for start in np.unique(first):
            rows = np.stack([self._row(int(start) + k) for k in range(_POINTS)])
            chosen = first == start
            result[chosen] = _lagrange(position[chosen] - start) @ rows
        return result


@functools.lru_cache(maxsize=32)
def moments_of(phi: Nonlinearity) -> MomentTable:
    """The table of a φ that every caller shares, so that a moment is integrated once."""
    return MomentTable(phi)


def _lagrange(x: Array) -> Array:
    """Weights [N, points] of values at 0, 1, ..., points-1 for a value at x."""
    grid = np.arange(_POINTS)
    weights = np.ones((len(x), _POINTS))
    for i in grid:
        for j in grid[grid != i]:
            weights[:, i] *= (x - j) / (i - j)
    return weights
