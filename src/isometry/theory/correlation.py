"""Two inputs at once: the correlation map and its fixed point (Poole et al. 2016, eqs. 5 and 6;
Schoenholz et al. 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from isometry.theory.meanfield import Nonlinearity, second_moment

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

_REACH = 9.0  # the Gaussian weight beyond is under 1e-18
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)
_TURN = np.array([-8.0, -4.0, -2.0, -1.0, 1.0, 2.0, 4.0, 8.0])
_SCALES = np.array([0.25, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0])


def pair_expectation(
    functions: Sequence[tuple[Function, Function]],
    q_a: float,
    q_b: float,
    c: float,
    kinks: Sequence[float] = (),
    resolved: float = 1e24,
) -> list[float]:
    """E f(h_a) g(h_b) for each (f, g), (h_a, h_b) Gaussian with variances q_a, q_b and correlation
    c.

    Outer and inner integral are both cut where φ has a kink, the inner one at a place that depends
    on the outer point.
    """
    q_a = min(q_a, resolved)
    q_b = min(q_b, resolved)
    if q_a == 0 or q_b == 0:
        zero = np.zeros(1)
        c = 0.0
        q_a = max(q_a, 0.0)
        q_b = max(q_b, 0.0)
        if q_a == 0 and q_b == 0:
            return [float(f(zero)[0] * g(zero)[0]) for f, g in functions]
    reach = _REACH * np.sqrt(max(q_a, q_b))
    kinks = [kink for kink in kinks if abs(kink) < reach]
    marks = np.unique(
        np.concatenate([_SCALES, -_SCALES, [0.0], np.asarray(kinks, dtype=np.float64)])
    )
    spread = np.sqrt(max(0.0, 1 - c * c))
    # the inner integral, as a function of the outer point, turns at a kink on the scale of the
    # spread
    turns = np.add.outer(np.asarray(kinks, dtype=np.float64), np.sqrt(q_a) * spread * _TURN).ravel()
    z, weight = _split(_edges(np.concatenate([marks, turns]), np.zeros(1), q_a))
    z = z[0]
    weight = weight[0]
    h_a = np.sqrt(q_a) * z
    inner, inner_weight = _split(_edges(marks, np.sqrt(q_b) * c * z, q_b * spread**2))
    h_b = np.sqrt(q_b) * (c * z[:, None] + spread * inner)
    cache: dict[int, Array] = {}
    results = []
    for f, g in functions:
        if id(g) not in cache:
            cache[id(g)] = (inner_weight * g(h_b.ravel()).reshape(h_b.shape)).sum(1)
        results.append(float(weight @ (f(h_a) * cache[id(g)])))
    return results


def _edges(marks: Array, means: Array, variance: float) -> Array:
    """Panel edges on the axis of a standard normal variable x: unit steps, and the marks of the
    argument mean + √variance x, for each mean, [R, P]."""
    steps = np.broadcast_to(np.linspace(-_REACH, _REACH, 13), (len(means), 13))
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.nan_to_num(
            (marks - means[:, None]) / np.sqrt(variance), nan=_REACH, posinf=_REACH, neginf=-_REACH
        )
    return np.sort(np.concatenate([steps, np.clip(inside, -_REACH, _REACH)], axis=1), axis=1)


def _split(edges: Array) -> tuple[Array, Array]:
    """Gauss-Legendre nodes and Gaussian weights on the panels of each row of edges [R, P]; both [R,
    (P-1)·12].
    """
    half = 0.5 * np.diff(edges, axis=1)
    middle = 0.5 * (edges[:, 1:] + edges[:, :-1])
    x = (middle[..., None] + half[..., None] * _NODES).reshape(len(edges), -1)
    weight = (half[..., None] * _WEIGHTS).reshape(len(edges), -1)
    return x, weight * np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi)


def covariance(phi: Nonlinearity, q_a: float, q_b: float, c: float) -> float:
    """E φ(h_a) φ(h_b)."""
    return pair_expectation([(phi.phi, phi.phi)], q_a, q_b, c, phi.kinks, phi.resolved)[0]


def slope_covariance(phi: Nonlinearity, q_a: float, q_b: float, c: float) -> float:
    """E φ'(h_a) φ'(h_b)."""
    return pair_expectation([(phi.phi_prime, phi.phi_prime)], q_a, q_b, c, phi.kinks, phi.resolved)[
        0
    ]


def correlation_map(phi: Nonlinearity, c: float, q: float, sigma_w: float, sigma_b: float) -> float:
    """The correlation of two inputs' preactivations one layer on, both at length q (Poole et al.
    2016, eq. 5).

    Raises:
        ValueError: for a correlation outside [-1, 1].
    """
    if not -1 <= c <= 1:
        raise ValueError(f"c={c}: a correlation lies between -1 and 1")
    length = sigma_w**2 * second_moment(phi, q) + sigma_b**2
    if c == 1 or length == 0:
        return 1.0
    return (sigma_w**2 * covariance(phi, q, q, c) + sigma_b**2) / length


def correlation_fixed_point(
    phi: Nonlinearity, q: float, sigma_w: float, sigma_b: float, chi_1: float
) -> float:
    """The stable c*: 1 where χ₁ ≤ 1, else the fixed point under it (Schoenholz et al. 2017, sec.
    3).

    Args:
        q: the fixed point q* of the length map (> 0).
        chi_1: the slope of the map at c = 1.
    """
    if chi_1 <= 1 + 1e-9:
        return 1.0

    def excess(c: float) -> float:
        return correlation_map(phi, c, q, sigma_w, sigma_b) - c

    # near c = 1 the map lies under the diagonal where χ₁ > 1; at 0 it lies on or above it
    at_zero = excess(0.0)
    if at_zero <= 1e-14:
        return 0.0
    near_one = next((c for c in (0.9999999, 0.99999, 0.999, 0.99) if excess(c) < 0), None)
    return 1.0 if near_one is None else float(brentq(excess, 0.0, near_one, xtol=1e-12))
