"""Activations whose shape is solved for the depth: TAT (Zhang, Botev & Martens 2022) and DKS
(Martens et al. 2021), for networks without shortcuts whose inputs have length q = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, root

from isometry.theory.meanfield import Nonlinearity
from isometry.theory.quadrature import expectation

Array = NDArray[np.float64]


def leaky_slope(depth: int, eta: float) -> float:
    """The negative slope of a leaky relu of unit length with which two orthogonal inputs come out
    with correlation η (TAT, eq. 9: C_f(0) = η over the whole network).

    Args:
        depth: nonlinear layers (≥ 1).
        eta: between 0 and what relu reaches.

    Raises:
        ValueError: where relu itself does not correlate them so much.
    """
    if correlation_behind(0.0, depth) <= eta:
        raise ValueError(f"{depth} layers of relu correlate inputs less than eta={eta}")
    slope: float = brentq(lambda a: correlation_behind(a, depth) - eta, 0.0, 1.0)
    return slope


def correlation_behind(slope: float, depth: int) -> float:
    """The correlation of two orthogonal inputs behind so many layers (Cho & Saul 2009 for the map
    of one).
    """
    factor = (1 - slope) ** 2 / (math.pi * (1 + slope**2))
    c = 0.0
    for _ in range(depth):
        c = min(1.0, c + factor * (math.sqrt(1 - c * c) - c * math.acos(c)))
    return c


@dataclass(frozen=True)
class Shape:
    """φ̂(z) = γ (φ(α z + β) + δ)."""

    alpha: float
    beta: float
    gamma: float
    delta: float


def kernel_shape(phi: Nonlinearity, depth: int, zeta: float) -> Shape:
    """The shape with E φ̂² = 1, E z φ̂ φ̂' = 1, E φ̂ = 0 and (E φ̂'²)^depth = ζ for z ~ N(0, 1): length
    is kept, and stays; orthogonal inputs stay so; the slope of the whole network's correlation map
    at 1 is ζ (DKS, sec. 5).

    Raises:
        ValueError: where the φ has no such shape.
    """
    wanted = zeta ** (1 / depth)

    def misses(x: Array) -> list[float]:
        if abs(x[0]) < 1e-8 or abs(x).max() > 50:
            return [1e3, 1e3]
        length, slope = _moments(phi, shape_at(phi, float(x[0]), float(x[1])))
        return [length - 1, slope - wanted]

    for start in ((0.5, 0.5), (0.2, 0.2), (1.0, -1.0), (0.2, -0.5), (1.0, 1.0)):
        found = root(misses, np.array(start), method="hybr", tol=1e-12)
        if found.success and max(map(abs, misses(found.x))) < 1e-8:
            return shape_at(phi, float(found.x[0]), float(found.x[1]))
    raise ValueError(f"{phi.name} has no shape with slope {wanted:.4g} a layer")


def shape_at(phi: Nonlinearity, alpha: float, beta: float) -> Shape:
    """The shape of mean 0 and second moment 1 with these α and β."""
    kinks = _moved(phi, alpha, beta)
    mean = expectation(lambda z: phi.phi(alpha * z + beta), 1.0, kinks)
    square = expectation(lambda z: (phi.phi(alpha * z + beta) - mean) ** 2, 1.0, kinks)
    return Shape(alpha, beta, square**-0.5 if square > 0 else math.inf, -mean)


def _moments(phi: Nonlinearity, shape: Shape) -> tuple[float, float]:
    """E z φ̂ φ̂' and E φ̂'²."""
    inner: Callable[[Array], Array] = lambda z: shape.alpha * z + shape.beta  # noqa: E731
    kinks = _moved(phi, shape.alpha, shape.beta)
    scale = shape.gamma**2 * shape.alpha

    def product(z: Array) -> Array:
        return z * (phi.phi(inner(z)) + shape.delta) * phi.phi_prime(inner(z)) * scale

    def square(z: Array) -> Array:
        return (shape.gamma * shape.alpha * phi.phi_prime(inner(z))) ** 2

    return expectation(product, 1.0, kinks), expectation(square, 1.0, kinks)


def _moved(phi: Nonlinearity, alpha: float, beta: float) -> list[float]:
    return [(kink - beta) / alpha for kink in phi.kinks]
