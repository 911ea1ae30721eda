"""Batch norm at initialization: gradients explode, whatever σ_w (Yang et al. 2019).

Between two layers stands z = batch norm(h), h = W φ(z'). At the fixed point of the forward pass a
unit's z over a batch of B is uniform on the sphere of radius √B orthogonal to the all-ones vector,
so all expectations are over that sphere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from isometry.theory.meanfield import Nonlinearity

Array = NDArray[np.float64]
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


@dataclass(frozen=True)
class BatchNormLimit:
    """The fixed point of a deep batch-norm network.

    Attributes:
        growth: factor on E‖δ‖² a layer going back; σ_w and σ_b drop out.
        second_moment: E φ(z)².
        spread: E φ(z)² - E φ(z_i) φ(z_j), the share of it that batch norm keeps; σ_w² times it is
            h's variance.
    """

    growth: float
    second_moment: float
    spread: float


def batch_norm_limit(phi: Nonlinearity, batch: int) -> BatchNormLimit:
    """The fixed point for batches of `batch` examples; exact in B, for infinite width (Yang et al.
    2019, theorem 3.9).

    With a = E φ(z_i)², b = E φ(z_i) φ(z_j): h - mean is isotropic Gaussian in B-1 dimensions, of
    variance σ_w² (a - b): so E 1/s² = B/((B-3) σ_w² (a - b)), independent of z. Backward, ‖P
    φ'(z)⊙g‖² with P the projection off 1 and z, and g a Gaussian vector orthogonal to 1. For φ(z) =
    z the factor is (B-2)/(B-3); for relu it tends to π/(π-1).

    Raises:
        ValueError: for fewer than 5 examples, where E 1/s² does not exist or the expectation is not
            of a density.
    """
    if batch < 5:
        raise ValueError(
            f"batch={batch}: batch norm's gradient has an expectation from 5 examples on"
        )
    z, weight, w, pair = _sphere(batch, phi.kinks)
    f = phi.phi(z)
    s = phi.phi_prime(z)
    f2 = phi.phi(w.ravel()).reshape(w.shape)
    s2 = phi.phi_prime(w.ravel()).reshape(w.shape)
    a = float(weight @ f**2)
    b = float(weight @ (f * (pair * f2).sum(1)))
    m = float(weight @ s**2)
    mz = float(weight @ (s**2 * z**2))
    r = float(weight @ (s * (pair * s2).sum(1)))
    rz = float(weight @ (s * z * (pair * s2 * w).sum(1)))
    trace = batch * m * (1 - 1 / batch) - mz
    along_ones = m - (m + (batch - 1) * r) / batch - (mz + (batch - 1) * rz) / batch
    backward = batch / (batch - 1) * (trace - along_ones) / batch
    return BatchNormLimit(batch / (batch - 3) / (a - b) * backward, a, a - b)


def _sphere(batch: int, kinks: Sequence[float]) -> tuple[Array, Array, Array, Array]:
    """Nodes z_i [N] and weights, and for each of them nodes z_j [N, M] and weights, of two
    coordinates of the sphere.
    """
    kinks = [kink for kink in kinks if abs(kink) < 14]  # of arguments of variance 1
    d = batch - 1  # dimensions of the sphere's space; z_i = √d t for a unit vector's coordinate t
    # the angle between the two coordinate axes, once projected off the all-ones vector
    rho = -1 / d
    radius = math.sqrt(d)
    z, weight = _coordinate(d, radius, _cuts(radius, kinks, 0.0, 1.0)[None])
    z = z[0]
    weight = weight[0]
    scale = math.sqrt(1 - rho**2) * np.sqrt(np.maximum(d - z**2, 1e-300))
    cuts = np.stack(
        [_cuts(1.0, kinks, rho * point, size) for point, size in zip(z, scale, strict=True)]
    )
    t, pair = _coordinate(d - 1, 1.0, cuts)
    return z, weight, rho * z[:, None] + scale[:, None] * t, pair


def _cuts(radius: float, kinks: Sequence[float], mean: float, scale: float) -> Array:
    """Panel edges in [-radius, radius] of x, with the kinks of the argument mean + scale·x; denser
    where the weight is.
    """
    reach = min(
        radius, 13.0 * radius / math.sqrt(max(1.0, (radius / scale) ** 2)) if scale != 1.0 else 13.0
    )
    inside = np.clip((np.asarray([*kinks, 0.0]) - mean) / scale, -reach, reach)
    return np.sort(np.concatenate([np.linspace(-reach, reach, 21), inside]))


def _coordinate(d: int, radius: float, edges: Array) -> tuple[Array, Array]:
    """Nodes and weights of radius·t, t a coordinate of a uniform unit vector in d dimensions:
    density ∝ (1-t²)^((d-3)/2).
    """
    half = 0.5 * np.diff(edges, axis=1)
    middle = 0.5 * (edges[:, 1:] + edges[:, :-1])
    x = (middle[..., None] + half[..., None] * _NODES).reshape(len(edges), -1)
    panel = (half[..., None] * _WEIGHTS).reshape(len(edges), -1)
    constant = gammaln(d / 2) - gammaln((d - 1) / 2) - 0.5 * math.log(math.pi) - math.log(radius)
    density = np.exp(constant + 0.5 * (d - 3) * np.log1p(-np.minimum((x / radius) ** 2, 1 - 1e-16)))
    return x, panel * density
