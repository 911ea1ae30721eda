"""The correlation map against closed forms, and the papers' fixed points."""

import math

import pytest

from isometry import activations
from isometry.theory.correlation import (
    correlation_fixed_point,
    correlation_map,
    covariance,
    slope_covariance,
)
from isometry.theory.meanfield import chi, variance_map

CORRELATIONS = [-0.999, -0.5, 0.0, 0.3, 0.9, 0.999, 0.999999]


@pytest.mark.parametrize("c", CORRELATIONS)
@pytest.mark.parametrize("q", [1e-6, 1.0, 400.0])
def test_relu_is_the_arc_cosine_kernel(q, c):
    """Cho & Saul 2009, eqs. 3 and 4, for n = 1 and n = 0."""
    theta = math.acos(c)
    first = q / (2 * math.pi) * (math.sin(theta) + (math.pi - theta) * c)
    # the covariance itself is small near c = -1: compare on the scale of q
    assert covariance(activations.relu(), q, q, c) == pytest.approx(first, rel=1e-10, abs=1e-13 * q)
    assert slope_covariance(activations.relu(), q, q, c) == pytest.approx(
        (math.pi - theta) / (2 * math.pi), rel=1e-10
    )


@pytest.mark.parametrize("c", CORRELATIONS)
@pytest.mark.parametrize(("q_a", "q_b"), [(1e-4, 1e-4), (1.0, 0.2), (50.0, 3.0)])
def test_erf_is_the_arc_sine_kernel(q_a, q_b, c):
    """Williams 1997, eq. 11: (2/π) asin(2 q_ab/√((1 + 2 q_a)(1 + 2 q_b)))."""
    q_ab = c * math.sqrt(q_a * q_b)
    expected = 2 / math.pi * math.asin(2 * q_ab / math.sqrt((1 + 2 * q_a) * (1 + 2 * q_b)))
    assert covariance(activations.erf(), q_a, q_b, c) == pytest.approx(
        expected, rel=1e-10, abs=1e-16
    )


@pytest.mark.parametrize(
    ("sigma_w", "q_star", "c_star"), [(1.3, 0.607, 1.0), (2.5, 4.079, 0.122), (4.0, 12.604, 0.030)]
)
def test_poole_et_al_figure_1_and_2(sigma_w, q_star, c_star):
    """tanh with σ_b = 0.3 (Poole et al. 2016, figs. 1 and 2)."""
    phi = activations.tanh()
    q = 1.0
    for _ in range(300):
        q = variance_map(phi, q, sigma_w, 0.3)
    assert q == pytest.approx(q_star, abs=5e-4)
    assert correlation_fixed_point(phi, q, sigma_w, 0.3, chi(phi, q, sigma_w)) == pytest.approx(
        c_star, abs=5e-4
    )


def test_the_slope_of_the_map_at_one_is_chi():
    """Schoenholz et al. 2017, eq. 5, by a central difference away from c = 1's boundary."""
    phi = activations.tanh()
    sigma_w = 1.5
    sigma_b = 0.2
    q = 1.0
    for _ in range(200):
        q = variance_map(phi, q, sigma_w, sigma_b)
    step = 1e-4
    slope = (1 - correlation_map(phi, 1 - step, q, sigma_w, sigma_b)) / step
    # the curvature enters at order step
    assert slope == pytest.approx(chi(phi, q, sigma_w), rel=1e-3)


def test_a_correlation_above_one_is_refused():
    with pytest.raises(ValueError, match="between -1 and 1"):
        correlation_map(activations.tanh(), 1.1, 1.0, 1.0, 0.0)
