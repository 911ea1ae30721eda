"""Where lengths and correlations settle, how fast, and in which phase (Poole et al. 2016;
Schoenholz et al. 2017).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from isometry.theory.batch_norm import batch_norm_limit
from isometry.theory.correlation import correlation_fixed_point, slope_covariance
from isometry.theory.meanfield import Nonlinearity, chi, variance_map
from isometry.theory.moments import HIGHEST, LOWEST, moments_of

Array = NDArray[np.float64]
Phase = Literal["ordered", "critical", "chaotic"]

CRITICAL_WITHIN = 1e-3
"""|χ₁ - 1| under which a network is called critical: a depth scale of over 1,000 layers."""


_NEUTRAL = 1e-9  # of log q'/q: under the error of the interpolated moments


@dataclass(frozen=True)
class FixedPoint:
    """A second moment that the length map leaves alone.

    Attributes:
        q: its value; 0 and inf where lengths vanish or grow without bound.
        slope: dq'/dq there; stable under 1. For 0 and inf, of log q' by log q at the end of the
            range.
    """

    q: float
    slope: float

    @property
    def stable(self) -> bool:
        return self.slope < 1

    @property
    def kind(self) -> str:
        """`stable`, `unstable`, or `marginal` where neither is so to first order."""
        if abs(self.slope - 1) < 1e-6:
            return "marginal"
        return "stable" if self.stable else "unstable"


def fixed_points(phi: Nonlinearity, sigma_w: float, sigma_b: float) -> list[FixedPoint]:
    """All fixed points of q → σ_w² E φ(√q z)² + σ_b² in [0, ∞], in order; found by a scan over log
    q and bracketing.

    Raises:
        ValueError: for a negative scale.
    """
    if sigma_w < 0 or sigma_b < 0:
        raise ValueError(f"sigma_w={sigma_w}, sigma_b={sigma_b}: scales are not negative")
    if sigma_w == 0:
        return [FixedPoint(sigma_b**2, 0.0)]
    bias = 2 * math.log(sigma_b) if sigma_b > 0 else -math.inf

    def excess(log_q: Array | float) -> Array:
        """log of next q over q."""
        grown = 2 * math.log(sigma_w) + moments_of(phi).at(log_q).log_p
        return np.logaddexp(grown, bias) - log_q

    grid = np.linspace(LOWEST, HIGHEST, 221)
    values = excess(grid)
    found = (
        [FixedPoint(0.0, math.exp(min(values[0], 700)))] if _starts_at_zero(phi, sigma_b) else []
    )
    # where φ is its own tangent, a critical σ_w leaves every q alone
    decided = np.flatnonzero(np.abs(values) > _NEUTRAL)
    for low, high in itertools.pairwise(decided):
        if values[low] * values[high] < 0:
            q = math.exp(
                brentq(lambda log_q: float(excess(log_q)), grid[low], grid[high], xtol=1e-13)
            )
            found.append(FixedPoint(q, length_slope(phi, q, sigma_w)))
    if len(decided) and values[decided[-1]] > 0:
        found.append(FixedPoint(math.inf, math.exp(-values[-1])))
    return found


def _starts_at_zero(phi: Nonlinearity, sigma_b: float) -> bool:
    return sigma_b == 0 and float(phi.phi(np.zeros(1))[0]) == 0


def length_slope(phi: Nonlinearity, q: float, sigma_w: float) -> float:
    """dq'/dq = σ_w² (E φ² z² - E φ²)/(2q), by Stein's lemma."""
    moments = moments_of(phi).at(math.log(q))
    return sigma_w**2 * math.exp(float(moments.log_p)) * 0.5 * (float(moments.tilt) - 1) / q


@dataclass(frozen=True)
class Limit:
    """What an infinitely deep network of one σ_w, σ_b and φ does.

    Attributes:
        q_star: second moment that lengths come to from q = 1; 0 or inf where they vanish or grow;
            nan where every q is a fixed point.
        bounded: whether lengths stay finite.
        chi_1: σ_w² E φ'(√q* z)².
        phase: `ordered`, `critical` or `chaotic`.
        c_star: correlation that two inputs come to; None where q* is 0, inf or nan.
        chi_c: σ_w² E φ'φ' at c*; None likewise.
        xi_q, xi_c, xi_gradient: depth scales in layers (Schoenholz et al. 2017, eqs. 8, 9 and 16):
            of lengths, of correlations, and of gradients, ξ_∇ = -1/log χ₁, negative where gradients
            grow; inf at criticality.
    """

    q_star: float
    bounded: bool
    chi_1: float
    phase: Phase
    c_star: float | None
    chi_c: float | None
    xi_q: float | None
    xi_c: float | None
    xi_gradient: float


def limit(phi: Nonlinearity, sigma_w: float, sigma_b: float, start: float = 1.0) -> Limit:
    """The limit of depth, from the second moment `start` of the first layer."""
    q_star = settled(phi, sigma_w, sigma_b, start)
    usable = float(
        np.clip(start if math.isnan(q_star) else q_star, math.exp(LOWEST), math.exp(HIGHEST))
    )
    chi_1 = chi(phi, usable, sigma_w)
    c_star = chi_c = xi_q = xi_c = None
    if 0 < q_star < math.inf:
        slope = abs(length_slope(phi, q_star, sigma_w))
        xi_q = depth_scale(slope)
        c_star = correlation_fixed_point(phi, q_star, sigma_w, sigma_b, chi_1)
        chi_c = chi_1 if c_star == 1 else sigma_w**2 * slope_covariance(phi, q_star, q_star, c_star)
        xi_c = depth_scale(abs(chi_c))
    return Limit(
        q_star,
        q_star < math.inf,
        chi_1,
        phase_of(chi_1),
        c_star,
        chi_c,
        xi_q,
        xi_c,
        depth_scale(chi_1),
    )


def settled(phi: Nonlinearity, sigma_w: float, sigma_b: float, start: float = 1.0) -> float:
    """Where q goes from `start`: the fixed point on the side to which the map moves it (a map with
    an unstable one has several); nan if it stays wherever it is.
    """
    factor = variance_map(phi, start, sigma_w, sigma_b) / start
    points = fixed_points(phi, sigma_w, sigma_b)
    if abs(factor - 1) < _NEUTRAL and not any(abs(p.q / start - 1) < 1e-6 for p in points):
        return math.nan
    if factor > 1:
        return next((p.q for p in points if p.q >= start * (1 - 1e-9)), math.inf)
    return next((p.q for p in reversed(points) if p.q <= start * (1 + 1e-9)), 0.0)


def phase_of(chi_1: float) -> Phase:
    """Ordered under χ₁ = 1, chaotic over it."""
    if abs(chi_1 - 1) < CRITICAL_WITHIN:
        return "critical"
    return "ordered" if chi_1 < 1 else "chaotic"


def depth_scale(factor: float) -> float:
    """-1/log of a factor a layer: the layers over which something falls by e; negative where it
    grows.
    """
    if factor == 0:
        return 0.0
    return math.inf if abs(math.log(factor)) < 1e-12 else -1 / math.log(factor)


def limit_of(
    phi: Nonlinearity,
    normalization: str,
    sigma_w: float,
    sigma_b: float,
    batch: int,
    start: float = 1.0,
    epsilon: float = 0.0,
) -> tuple[float, float, Phase] | None:
    """χ₁ (the growth of E‖δ‖² a layer going back), q* and phase of a network with a normalization,
    deep and wide.

    Layer and RMS norm: χ₁ = σ_w² E φ'(z)²/(q* + ε), q* = σ_w² E φ(z)² + σ_b², z ~ N(0, q*/(q* +
    ε)). Batch norm: `batch_norm_limit`.

    Args:
        batch: examples that batch norm sees.
        start: second moment of the first layer.
        epsilon: what the normalization adds to the variance.

    Returns:
        None for batch norm over fewer than 5 examples, whose gradient has no expectation, and
        where ε is not small against the variance that it divides by.
    """
    if normalization == "none":
        found = limit(phi, sigma_w, sigma_b, start)
        return found.chi_1, found.q_star, found.phase
    if normalization == "batch" and batch < 5:
        return None
    if normalization == "batch":
        settled_norm = batch_norm_limit(phi, batch)
        if epsilon > SMALL_EPSILON * sigma_w**2 * settled_norm.spread:
            return None
        growth = settled_norm.growth
        q_star = sigma_w**2 * settled_norm.second_moment + sigma_b**2
    else:
        q_star, share = _normalized_length(phi, sigma_w, sigma_b, epsilon)
        growth = chi(phi, share, sigma_w) / max(q_star + epsilon, 1e-300)
    return growth, q_star, phase_of(growth)


SMALL_EPSILON = 1e-3


def _normalized_length(
    phi: Nonlinearity, sigma_w: float, sigma_b: float, epsilon: float
) -> tuple[float, float]:
    """q* behind a layer or RMS norm, and the variance q*/(q* + ε) of what it leaves."""
    q = variance_map(phi, 1.0, sigma_w, sigma_b)
    for _ in range(ITERATIONS if epsilon > 0 else 0):
        q = variance_map(phi, q / (q + epsilon), sigma_w, sigma_b)
    return q, q / (q + epsilon) if epsilon > 0 else 1.0


ITERATIONS = 200
