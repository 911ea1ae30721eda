"""The length map of a wide random network (Poole et al. 2016; Schoenholz et al. 2017).

Conventions: h = W φ(h') + b, Var W = σ_w²/fan_in, Var b = σ_b², z ~ N(0, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from isometry.theory.quadrature import expectation


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
    return expectation(lambda h: phi.phi(h) ** 2, q, phi.kinks)


def slope_moment(phi: Nonlinearity, q: float, power: int = 2) -> float:
    """E φ'(√q z)^power; μ_k of Pennington et al. 2017 is power = 2k."""
    return expectation(lambda h: phi.phi_prime(h) ** power, q, phi.kinks)


def variance_map(phi: Nonlinearity, q: float, sigma_w: float, sigma_b: float) -> float:
    """q_{l+1} = σ_w² E φ(√q_l z)² + σ_b² (Poole et al. 2016, eq. 3)."""
    return sigma_w**2 * second_moment(phi, q) + sigma_b**2


def chi(phi: Nonlinearity, q: float, sigma_w: float) -> float:
    """χ(q) = σ_w² E φ'(√q z)², the growth of E‖δ‖² a layer going back (Schoenholz et al. 2017, eq.
    5).
    """
    return sigma_w**2 * slope_moment(phi, q)
