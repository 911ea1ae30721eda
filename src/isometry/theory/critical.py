"""Where gradients keep their size: the scales with χ₁ = 1, and what kind of point they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from isometry.theory.fixed_points import length_slope
from isometry.theory.meanfield import Nonlinearity, second_moment, slope_moment, variance_map

_ORIGIN = 1e-24  # a q so small that φ is its own tangent (one tangent a side at a kink)
_GRID = np.log(np.geomspace(1e-10, 1e8, 181))
_ROUNDING = 1e-6  # of 1 - dq'/dq, where it is no difference

_NOTES = {
    "homogeneous": (
        "relu-like: χ does not depend on q, so δ keeps its length whatever σ_b; q drifts where "
        "σ_b > 0"
    ),
    "origin": "critical at q* = 0",
    "fixed_point": "critical at a fixed point q* > 0",
    "half_stable": (
        "critical at a fixed point q* > 0 to which lengths come from one side only, like a power "
        "of depth"
    ),
    "asymptotic": "no fixed point has χ₁ = 1; χ → 1 as q grows with depth",
}

_DECAYS = ": q decays like a power of depth, and χ → 1"
_UNSTABLE = ", but lengths are unstable there: q moves away from it with depth"


class NoCriticalPoint(ValueError):
    """No σ_w has χ₁ = 1."""


@dataclass(frozen=True)
class CriticalPoint:
    """Where χ₁ = 1.

    Attributes:
        sigma_w: the weight scale (σ_w, not its square).
        sigma_b: the bias scale it belongs to.
        q_star: the second moment there; 0 for a critical point at the origin, inf for one that is
            only approached.
        kind: `fixed_point` (χ₁ = 1 at a q* > 0), `half_stable` (dq'/dq = 1 as well), `origin` (at
            q* = 0), `homogeneous` (φ is relu-like: χ does not depend on q), `asymptotic` (no fixed
            point has χ₁ = 1; σ_w makes χ → 1 as q grows).
        stable: whether q comes back to q* after a small push (for `homogeneous`: whether it stays
            where it is; for `half_stable`: from one side).
    """

    sigma_w: float
    sigma_b: float
    q_star: float
    kind: str
    stable: bool = True

    @property
    def note(self) -> str:
        """What kind of point it is, in a sentence."""
        if self.kind not in ("origin", "fixed_point"):
            return _NOTES[self.kind]
        decays = _DECAYS if self.kind == "origin" else ""
        return _NOTES[self.kind] + (decays if self.stable else _UNSTABLE)


def critical(phi: Nonlinearity, sigma_b: float | None = None) -> CriticalPoint:
    """The σ_w at which χ₁ = σ_w² E φ'(√q* z)² = 1 (Schoenholz et al. 2017, sec. 3).

    Args:
        sigma_b: the bias scale; None: 0, or that of the half-stable point where lengths do not stay
            at any critical point without biases (gelu, silu, mish; Roberts, Yaida & Hanin 2022,
            sec. 5.3.4).

    Raises:
        NoCriticalPoint: where there is none (squared relu without biases: χ₁ = 4/3 at every fixed
            point).
    """
    if sigma_b is not None:
        return _with_biases(phi, sigma_b)
    unbiased = _with_biases(phi, 0.0)
    half_stable = None if unbiased.stable else _half_stable(phi)
    return half_stable or unbiased


def _with_biases(phi: Nonlinearity, sigma_b: float) -> CriticalPoint:
    """The critical point of one σ_b.

    Along the curve σ_w²(q) = 1/E φ'(√q z)² the fixed-point condition leaves one equation in q,
    solved by bracketing.
    """
    if _is_homogeneous(phi):
        sigma_w = _scale(phi, 1.0)
        return CriticalPoint(sigma_w, sigma_b, np.nan, "homogeneous", sigma_b == 0)
    if sigma_b == 0 and _begins_with_a_tangent(phi):
        sigma_w = _scale(phi, _ORIGIN)
        falls = variance_map(phi, 1e-2, sigma_w, 0.0) <= 1e-2 * (1 + 1e-9)
        return CriticalPoint(sigma_w, 0.0, 0.0, "origin", falls)
    q_star = _smallest_root(phi, sigma_b)
    if q_star is None:
        return _asymptotic(phi, sigma_b)
    sigma_w = _scale(phi, q_star)
    push = 1.001 * q_star
    returns = variance_map(phi, push, sigma_w, sigma_b) < push
    return CriticalPoint(sigma_w, sigma_b, q_star, "fixed_point", returns)


def _scale(phi: Nonlinearity, q: float) -> float:
    """σ_w with χ(q) = 1."""
    return math.pow(slope_moment(phi, q), -0.5)


def _asymptotic(phi: Nonlinearity, sigma_b: float) -> CriticalPoint:
    if not _settles(phi, 1e8, 1e6):
        raise NoCriticalPoint(
            f"{phi.name} has no critical point with sigma_b={sigma_b:g}: no fixed point has χ₁ = 1"
        )
    return CriticalPoint(_scale(phi, 1e8), sigma_b, np.inf, "asymptotic", False)


def _begins_with_a_tangent(phi: Nonlinearity) -> bool:
    return float(phi.phi(np.zeros(1))[0]) == 0 and _settles(phi, _ORIGIN, 100 * _ORIGIN)


def _settles(phi: Nonlinearity, end: float, before: float) -> bool:
    """Whether E φ'² tends to a positive constant at one end of the range of q."""
    limit = slope_moment(phi, end)
    return limit > 0 and abs(slope_moment(phi, before) / limit - 1) < 1e-2


def _is_homogeneous(phi: Nonlinearity) -> bool:
    """φ(s z) = s φ(z) for s > 0, tested at a few points."""
    z = np.array([-3.0, -0.5, 0.7, 2.0])
    return bool(
        np.allclose(phi.phi(1e3 * z), 1e3 * phi.phi(z), rtol=1e-12, atol=0) and phi.phi(z).any()
    )


def _smallest_root(phi: Nonlinearity, sigma_b: float) -> float | None:
    """The smallest q with σ_w²(q) E φ² + σ_b² = q, None where there is none in [1e-10, 1e8]."""

    def excess(log_q: float) -> float:
        q = math.exp(log_q)
        return variance_map(phi, q, _scale(phi, q), sigma_b) / q - 1.0

    return _first_fall(excess, 0.0)


def _half_stable(phi: Nonlinearity) -> CriticalPoint | None:
    """Where χ₁ = 1 and dq'/dq = 1: σ_b is the largest that has a critical fixed point."""

    def pull(log_q: float) -> float:
        q = math.exp(log_q)
        return length_slope(phi, q, _scale(phi, q)) - 1.0

    q = _first_fall(pull, _ROUNDING)
    if q is None:
        return None
    sigma_w = _scale(phi, q)
    sigma_b2 = q - second_moment(phi, q) * sigma_w**2
    return None if sigma_b2 < 0 else CriticalPoint(sigma_w, math.sqrt(sigma_b2), q, "half_stable")


def _first_fall(function: Callable[[float], float], least: float) -> float | None:
    """The smallest q = exp(x) at which a function of x falls through 0 from over `least`."""
    values = [function(x) for x in _GRID]
    for i in range(len(_GRID) - 1):
        if values[i] > least and values[i + 1] <= 0:
            return math.exp(brentq(function, _GRID[i], _GRID[i + 1], xtol=1e-14, rtol=1e-14))
    return None
