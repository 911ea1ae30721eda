"""Batch norm's gradient explosion against Yang et al. 2019 and against a simulation written out
here.
"""

import math

import numpy as np
import pytest

from builders import phi_of
from isometry import activations
from isometry.theory.batch_norm import batch_norm_limit


@pytest.mark.parametrize("batch", [6, 8, 32, 128, 1000])
def test_identity_is_exact(batch):
    """(B-2)/(B-3); near B = 5 the density's endpoint limits the quadrature."""
    rel = 1e-6 if batch < 8 else 1e-9
    assert batch_norm_limit(activations.linear(), batch).growth == pytest.approx(
        (batch - 2) / (batch - 3), rel=rel
    )


def test_relu_and_tanh_at_large_batches():
    assert batch_norm_limit(activations.relu(), 10_000).growth == pytest.approx(
        math.pi / (math.pi - 1), rel=3e-4
    )
    assert batch_norm_limit(activations.relu(), 128).growth == pytest.approx(1.467, rel=0.01)
    assert batch_norm_limit(activations.tanh(), 1000).growth == pytest.approx(1.178, rel=2e-3)


@pytest.mark.parametrize(("name", "batch"), [("relu", 16), ("tanh", 12), ("gelu", 64)])
def test_against_a_simulation_of_wide_layers(name, batch):
    """One step back through z = bn(h), h = W φ(z'): units drawn at infinite width, nothing else
    from theory.
    """
    generator = np.random.default_rng(0)
    phi = phi_of(name)
    units = 200_000

    def normalize(h):
        centred = h - h.mean(1, keepdims=True)
        scale = np.sqrt((centred**2).mean(1, keepdims=True))
        return centred / scale, scale

    covariance = np.eye(batch)
    for _ in range(40):  # the forward fixed point: covariance of φ(z) over units
        z, _ = normalize(
            generator.multivariate_normal(
                np.zeros(batch), covariance, size=20_000, method="cholesky"
            )
        )
        a = phi.phi(z)
        covariance = a.T @ a / len(a) + 1e-9 * np.eye(batch)
    diagonal = covariance.trace() / batch
    rest = (covariance.sum() - covariance.trace()) / (batch * (batch - 1))
    symmetric = np.full((batch, batch), rest) + (diagonal - rest) * np.eye(batch)
    h = generator.multivariate_normal(np.zeros(batch), symmetric, size=units, method="cholesky")
    z, scale = normalize(h)
    g = generator.standard_normal((units, batch))
    g = (g - g.mean(1, keepdims=True)) * math.sqrt(batch / (batch - 1))
    d = phi.phi_prime(z) * g
    d = d - d.mean(1, keepdims=True) - z * (d * z).mean(1, keepdims=True)
    ratio = ((d / scale) ** 2).sum(1) / batch
    error = 4 * ratio.std() / math.sqrt(units)
    # 1 %: the covariance is itself an average over 20,000 units
    assert batch_norm_limit(phi, batch).growth == pytest.approx(ratio.mean(), rel=0.01, abs=error)


def test_too_small_a_batch_is_refused():
    with pytest.raises(ValueError, match="batch=3"):
        batch_norm_limit(activations.relu(), 3)
