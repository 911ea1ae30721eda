"""The length map of a wide random network and its criticality (Poole et al. 2016; Schoenholz et al.
2017).

Conventions: h = W φ(h') + b, Var W = σ_w²/fan_in, Var b = σ_b², z ~ N(0, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from isometry.theory.quadrature import expectation

_ORIGIN = 1e-24  # a q so small that φ is its own tangent (one tangent a side at a kink)


class Nonlinearity(Protocol):
    """What the theory needs to know of an activation; hashable, since what was integrated is kept
    for each.
    """

    def __hash__(self) -> int: ...

    @property
    def name(self) -> str: ...
    @property
    def kinks(self) -> Sequence[float]: ...
    @property
    def resolved(self) -> float: ...
    def phi(self, z: NDArray[np.float64]) -> NDArray[np.float64]: ...
    def phi_prime(self, z: NDArray[np.float64]) -> NDArray[np.float64]: ...


def second_moment(phi: Nonlinearity, q: float) -> float:
    """E φ(√q z)²."""
    return expectation(lambda h: phi.phi(h) ** 2, min(q, phi.resolved), phi.kinks)


def slope_moment(phi: Nonlinearity, q: float, power: int = 2) -> float:
    """E φ'(√q z)^power; μ_k of Pennington et al. 2017 is power = 2k."""
    return expectation(lambda h: phi.phi_prime(h) ** power, min(q, phi.resolved), phi.kinks)


def variance_map(phi: Nonlinearity, q: float, sigma_w: float, sigma_b: float) -> float:
    """q_{l+1} = σ_w² E φ(√q_l z)² + σ_b² (Poole et al. 2016, eq. 3)."""
    return sigma_w**2 * second_moment(phi, q) + sigma_b**2


def chi(phi: Nonlinearity, q: float, sigma_w: float) -> float:
    """χ(q) = σ_w² E φ'(√q z)², the growth of E‖δ‖² a layer going back (Schoenholz et al. 2017, eq.
    5).
    """
    return sigma_w**2 * slope_moment(phi, q)


_NOTES = {
    "homogeneous": (
        "relu-like: χ does not depend on q, so δ keeps its length whatever σ_b; q drifts where "
        "σ_b > 0"
    ),
    "origin": "critical at q* = 0",
    "fixed_point": "critical at a fixed point q* > 0",
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
        stable: whether q comes back to q* after a small push (for `homogeneous`: whether it stays
            where it is).
        kind: `fixed_point` (χ₁ = 1 at a q* > 0), `origin` (at q* = 0), `homogeneous` (φ is
            relu-like: χ does not depend on q), `asymptotic` (no fixed point has χ₁ = 1; σ_w makes χ
            → 1 as q grows).
    """

    sigma_w: float
    sigma_b: float
    q_star: float
    kind: str
    stable: bool = True

    @property
    def note(self) -> str:
        """What kind of point it is, in a sentence."""
        if self.kind == "homogeneous" or self.kind == "asymptotic":
            return _NOTES[self.kind]
        return _NOTES[self.kind] + (
            _DECAYS if self.kind == "origin" and self.stable else "" if self.stable else _UNSTABLE
        )


def critical(phi: Nonlinearity, sigma_b: float = 0.0) -> CriticalPoint:
    """The σ_w at which χ₁ = σ_w² E φ'(√q* z)² = 1 for the given σ_b (Schoenholz et al. 2017, sec.
    3).

    Raises:
        NoCriticalPoint: where there is none (squared relu without biases: χ₁ = 4/3 at every fixed
            point).

    Along the curve σ_w²(q) = 1/E φ'(√q z)² the fixed-point condition leaves one equation in q,
    solved by bracketing.
    """
    if _is_homogeneous(phi):
        return CriticalPoint(
            slope_moment(phi, 1.0) ** -0.5, sigma_b, np.nan, "homogeneous", sigma_b == 0
        )
    if (
        sigma_b == 0
        and float(phi.phi(np.zeros(1))[0]) == 0
        and _settles(phi, _ORIGIN, 100 * _ORIGIN)
    ):
        sigma_w = slope_moment(phi, _ORIGIN) ** -0.5
        return CriticalPoint(
            sigma_w, 0.0, 0.0, "origin", variance_map(phi, 1e-2, sigma_w, 0.0) <= 1e-2 * (1 + 1e-9)
        )
    q_star = _smallest_root(phi, sigma_b)
    if q_star is None:
        if not _settles(phi, 1e8, 1e6):
            raise NoCriticalPoint(
                f"{phi.name} has no critical point with sigma_b={sigma_b:g}: no fixed point has "
                "χ₁ = 1"
            )
        return CriticalPoint(slope_moment(phi, 1e8) ** -0.5, sigma_b, np.inf, "asymptotic", False)
    sigma_w = slope_moment(phi, q_star) ** -0.5
    push = 1.001 * q_star
    return CriticalPoint(
        sigma_w, sigma_b, q_star, "fixed_point", variance_map(phi, push, sigma_w, sigma_b) < push
    )


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
        q = float(np.exp(log_q))
        return variance_map(phi, q, slope_moment(phi, q) ** -0.5, sigma_b) / q - 1.0

    grid = np.log(np.geomspace(1e-10, 1e8, 181))
    values = [excess(g) for g in grid]
    for low, high, left, right in zip(grid[:-1], grid[1:], values[:-1], values[1:], strict=True):
        if left > 0 >= right:
            return float(np.exp(brentq(excess, low, high, xtol=1e-14, rtol=1e-14)))
    return None
