"""The theory against closed forms."""

import math

import numpy as np
import pytest

from builders import phi_of
from isometry import activations
from isometry.theory.critical import critical
from isometry.theory.meanfield import chi, second_moment, slope_moment, variance_map
from isometry.theory.quadrature import error_estimate, expectation


@pytest.mark.parametrize("q", [1e-12, 1e-3, 1.0, 50.0, 1e6])
def test_gaussian_moments(q):
    for power, double_factorial in ((2, 1), (4, 3), (6, 15)):
        assert expectation(lambda h, p=power: h**p, q) == pytest.approx(
            double_factorial * q ** (power / 2), rel=1e-12
        )


@pytest.mark.parametrize("q", [1e-6, 0.3, 4.0, 1e4])
def test_relu_family(q):
    assert second_moment(activations.relu(), q) == pytest.approx(q / 2, rel=1e-12)
    assert slope_moment(activations.relu(), q) == pytest.approx(0.5, rel=1e-12)
    assert second_moment(activations.leaky_relu(0.2), q) == pytest.approx(
        q * (1 + 0.04) / 2, rel=1e-12
    )


@pytest.mark.parametrize("q", [1e-6, 0.3, 4.0, 1e4])
def test_erf(q):
    """E erf(√q z)² = (2/π) asin(2q/(1+2q)) (Williams 1997); E erf'² = (4/π)/√(1+4q)."""
    assert second_moment(activations.erf(), q) == pytest.approx(
        2 / math.pi * math.asin(2 * q / (1 + 2 * q)), rel=1e-10
    )
    assert slope_moment(activations.erf(), q) == pytest.approx(
        4 / math.pi / math.sqrt(1 + 4 * q), rel=1e-10
    )


def test_selu_has_its_fixed_point_at_one():
    """Klambauer et al. 2017: mean 0, variance 1 is a fixed point at σ_w² = 1; χ there is 1.0716."""
    assert variance_map(activations.selu(), 1.0, 1.0, 0.0) == pytest.approx(1.0, rel=1e-9)
    assert chi(activations.selu(), 1.0, 1.0) == pytest.approx(1.0716, rel=1e-4)


@pytest.mark.parametrize(
    ("activation", "sigma_w_squared", "kind"),
    [
        (activations.linear(), 1.0, "homogeneous"),
        (activations.relu(), 2.0, "homogeneous"),
        (activations.leaky_relu(0.3), 2 / 1.09, "homogeneous"),
        (activations.tanh(), 1.0, "origin"),
        (activations.softsign(), 1.0, "origin"),
        (activations.erf(), math.pi / 4, "origin"),
        (activations.gelu(), 4.0, "origin"),
        (activations.silu(), 4.0, "origin"),
        (activations.sigmoid(), 103.0, "fixed_point"),
    ],
)
def test_critical_points_without_bias(activation, sigma_w_squared, kind):
    point = critical(activation, 0.0)
    assert point.sigma_w**2 == pytest.approx(sigma_w_squared, rel=1e-4)
    assert point.kind == kind


def test_tanh_with_bias_is_schoenholzs():
    """Schoenholz et al. 2017 use σ_b² = 0.05, where σ_w² = 1.76 is critical."""
    point = critical(activations.tanh(), math.sqrt(0.05))
    assert point.sigma_w**2 == pytest.approx(1.76, abs=5e-3)
    assert variance_map(
        activations.tanh(), point.q_star, point.sigma_w, point.sigma_b
    ) == pytest.approx(point.q_star, rel=1e-9)
    assert chi(activations.tanh(), point.q_star, point.sigma_w) == pytest.approx(1.0, rel=1e-9)


def test_softplus_has_no_critical_fixed_point():
    point = critical(activations.softplus())
    assert point.kind == "asymptotic"
    assert point.sigma_w**2 == pytest.approx(2.0, rel=1e-3)
    assert np.isinf(point.q_star)


@pytest.mark.parametrize("q", [1e-3, 0.3, 4.0, 50.0, 1e4])
def test_the_error_estimate_bounds_the_error(q):
    """erf has a closed form; a kink that is not declared is integrated by other
    nodes, whose error is of the order of their estimate.
    """
    exact = 2 / math.pi * math.asin(2 * q / (1 + 2 * q))
    erf = activations.erf()
    error = abs(expectation(lambda h: erf.phi(h) ** 2, q) - exact)
    assert error <= error_estimate(lambda h: erf.phi(h) ** 2, q)
    for name in ("tanh", "gelu", "selu", "sigmoid", "softsign"):
        phi = phi_of(name)
        assert error_estimate(
            lambda h, phi=phi: phi.phi(h) ** 2, q, phi.kinks
        ) < 1e-10 * expectation(lambda h, phi=phi: phi.phi(h) ** 2, q, phi.kinks)
    kink = 0.3 * math.sqrt(q)
    square = lambda h: np.maximum(h - kink, 0.0) ** 2  # noqa: E731
    off = abs(expectation(square, q) - expectation(square, q, (kink,)))
    assert off < 10 * error_estimate(square, q)
    assert off < 1e-9 * q
