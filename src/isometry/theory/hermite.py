"""Two Gaussian preactivations at once, by Hermite series: E f(h_a) g(h_b) = Σ_m f_m g_m c^m for
correlation c and variance q, with f_m = E f(√q z) He_m(z)/√m!  (Mehler's formula).

One quadrature serves all correlations: a batch has a thousand pairs in each layer.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isometry.theory.meanfield import Nonlinearity
from isometry.theory.moments import HIGHEST, LOWEST
from isometry.theory.quadrature import rule_for

Array = NDArray[np.float64]

ORDER = 60
"""Of the series; what lies beyond is put at the next order, so that c = 1 is exact."""
STEPS_OF_Q = 0.05
"""In log q: coefficients are computed on this grid."""


@dataclass(frozen=True)
class PairMoments:
    """Of two units' values, over the product of their own moments, as series in c [ORDER + 2]; each
    is 1 where h_a and h_b are independent of each other but for `outputs` and `slopes`, which are 1
    at c = 1.

    Attributes:
        outputs: E φ_a φ_b/E φ².
        slopes: E φ'_a φ'_b/E φ'².
        squares: E φ_a² φ_b²/(E φ²)².
        slope_squares: E φ'_a² φ'_b²/(E φ'²)².
        cross: E φ_a² φ'_b²/(E φ² E φ'²).
        thirds, slope_thirds: E φ_a³ φ_b/(E φ²)², and the same of φ'.
    """

    outputs: Array
    slopes: Array
    squares: Array
    slope_squares: Array
    cross: Array
    thirds: Array
    slope_thirds: Array


def pair_moments(phi: Nonlinearity, log_q: float) -> PairMoments:
    """The series at one variance, rounded to a grid of 5 % (the moments at c = 1 are not taken from
    here).
    """
    inside = float(np.clip(log_q, LOWEST, HIGHEST))
    return _on_grid(phi, round(inside / STEPS_OF_Q))


@functools.lru_cache(maxsize=4096)
def _on_grid(phi: Nonlinearity, index: int) -> PairMoments:
    q = float(np.exp(index * STEPS_OF_Q))
    squares = (lambda h: phi.phi(h) ** 2, lambda h: phi.phi_prime(h) ** 2)
    z, weight = rule_for(squares, q, phi.kinks)
    polynomials = _hermite(z) * weight
    h = np.sqrt(q) * z
    value, slope = (f / np.sqrt(weight @ f**2) for f in (phi.phi(h), phi.phi_prime(h)))
    f, s, f2, s2 = (polynomials @ function for function in (value, slope, value**2, slope**2))
    f3, s3 = (polynomials @ function for function in (value**3, slope**3))
    fourth = float(weight @ value**4)
    slope_fourth = float(weight @ slope**4)
    both = float(weight @ (value**2 * slope**2))
    return PairMoments(
        _series(f * f, 1.0),
        _series(s * s, 1.0),
        _series(f2 * f2, fourth),
        _series(s2 * s2, slope_fourth),
        _series(f2 * s2, both),
        _series(f3 * f, fourth),
        _series(s3 * s, slope_fourth),
    )


def _series(terms: Array, at_one: float) -> Array:
    return np.append(terms, at_one - terms.sum())


def _hermite(z: Array) -> Array:
    """Orthonormal Hermite polynomials He_m/√m! at z, [ORDER + 1, N]."""
    rows = np.empty((ORDER + 1, len(z)))
    rows[0] = 1.0
    rows[1] = z
    for m in range(1, ORDER):
        rows[m + 1] = (z * rows[m] - np.sqrt(m) * rows[m - 1]) / np.sqrt(m + 1)
    return rows


def at(series: Array, c: Array, variance: Array | float = 0.0) -> Array:
    """Mean of a series at correlations that have these means and variances, to second order."""
    values = np.polynomial.polynomial.polyval(c, series)
    if np.any(variance):
        curvature = np.polynomial.polynomial.polyder(series, 2)
        values = values + 0.5 * variance * np.polynomial.polynomial.polyval(c, curvature)
    return np.asarray(values, dtype=np.float64)


def slope_at(series: Array, c: Array) -> Array:
    """Derivative of a series with respect to c."""
    derivative = np.polynomial.polynomial.polyder(series)
    return np.asarray(np.polynomial.polynomial.polyval(c, derivative), dtype=np.float64)
