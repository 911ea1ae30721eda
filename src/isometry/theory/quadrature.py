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


Rule = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Nodes and weights."""

GOOD = 1e-8
"""Relative change from a coarser rule that is no reason for another one."""

_STEPS = 2**16


@functools.lru_cache
def equal_steps(count: int = _STEPS) -> Rule:
    """Nodes and weights at equal distances: of every wave but those whose frequency happens to be
    a multiple of the nodes', the average over its phases; of a function with kinks or jumps nobody
    has named, an error of one step, 4e-4.
    """
    z = np.linspace(-_REACH, _REACH, count + 1)
    weight = np.exp(-0.5 * z**2)
    return z, weight / weight.sum()


def rule_for(functions: Sequence[Function], q: float, kinks: Sequence[float] = ()) -> Rule:
    """The rule that integrates all functions of √q z: panels, or where these do not resolve one of
    them (a wave, a kink that is not named) equal steps, whichever changes less if it is coarser.
    """
    panelled = nodes(q, kinks)
    off = _worst(functions, q, panelled, nodes(q, kinks, order=16))
    if off <= GOOD:
        return panelled
    even = equal_steps()
    return even if _worst(functions, q, even, equal_steps(_STEPS // 2)) < off else panelled


def _worst(functions: Sequence[Function], q: float, fine: Rule, coarse: Rule) -> float:
    """The largest relative difference between two rules."""
    worst = 0.0
    for function in functions:
        by_fine, by_coarse = (float(w @ function(np.sqrt(q) * z)) for z, w in (fine, coarse))
        scale = float(fine[1] @ np.abs(function(np.sqrt(q) * fine[0])))
        worst = max(worst, abs(by_fine - by_coarse) / scale if scale > 0 else 0.0)
    return worst


def expectation(function: Function, q: float, kinks: Sequence[float] = ()) -> float:
    """E f(√q z) for z ~ N(0, 1)."""
    z, weight = rule_for([function], q, kinks)
    return float(weight @ function(np.sqrt(q) * z))


def error_estimate(function: Function, q: float, kinks: Sequence[float] = ()) -> float:
    """How far `expectation` may be off, for a function without a closed form: its change from a
    coarser rule, which is far the less accurate of the two.
    """
    fine = rule_for([function], q, kinks)
    even = fine is equal_steps()
    coarse = equal_steps(_STEPS // 2) if even else nodes(q, kinks, order=16)
    found, less = (float(w @ function(np.sqrt(q) * z)) for z, w in (fine, coarse))
    return abs(less - found) + 1e-14 * abs(found)  # and rounding
