"""Gaussian expectations E f(z), z ~ N(0, 1), to near machine precision for functions with kinks.

Plain Gauss-Hermite converges like n^(-3/2) across the kink of a relu. Here the axis is cut at every
kink and at the scales on which φ(√q z) varies, and each panel is integrated by Gauss-Legendre.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Function = Callable[[NDArray[np.float64]], NDArray[np.float64]]

_REACH = 13.0  # the Gaussian weight beyond is under 1e-37
_SCALES = np.array([0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])


@functools.lru_cache
def _rule(order: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    points, weights = np.polynomial.legendre.leggauss(order)
    return points, weights


def panels(q: float, kinks: Sequence[float] = ()) -> NDArray[np.float64]:
    """Breakpoints on the z axis for φ(√q z): unit steps, the scales of φ itself, and its kinks."""
    scale = np.sqrt(q)
    inner = np.concatenate([_SCALES, -_SCALES, np.asarray(kinks, dtype=np.float64)])
    inside = inner[np.abs(inner) < _REACH * scale] / scale if scale > 0 else inner[:0]
    return np.unique(np.concatenate([np.linspace(-_REACH, _REACH, 27), [0.0], inside]))


def nodes(
    q: float, kinks: Sequence[float] = (), order: int = 24
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes z and weights w with Σ w f(√q z) = E f(√q z) for z ~ N(0, 1).

    Args:
        q: variance of the argument of f (≥ 0).
        kinks: points of the argument where f is not smooth.
        order: points of the Gauss-Legendre rule on each panel.
    """
    points, weights = _rule(order)
    edges = panels(q, kinks)
    half = 0.5 * np.diff(edges)
    middle = 0.5 * (edges[1:] + edges[:-1])
    z = (middle[:, None] + half[:, None] * points).ravel()
    weight = (half[:, None] * weights).ravel() * np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return z, weight


def expectation(function: Function, q: float, kinks: Sequence[float] = ()) -> float:
    """E f(√q z) for z ~ N(0, 1)."""
    z, weight = nodes(q, kinks)
    return float(weight @ function(np.sqrt(q) * z))


def error_estimate(function: Function, q: float, kinks: Sequence[float] = ()) -> float:
    """How far `expectation` may be off, for a function without a closed form: its change from a
    coarser rule.

    The rule of 16 points a panel is far the less accurate of the two, so this bounds the error of
    the other one, unless f has a kink that is not among `kinks`.
    """
    z, weight = nodes(q, kinks, order=16)
    coarse = float(weight @ function(np.sqrt(q) * z))
    fine = expectation(function, q, kinks)
    return abs(coarse - fine) + 1e-14 * abs(fine)  # and rounding
