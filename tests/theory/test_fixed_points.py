"""Fixed points, phases and depth scales against values that are known otherwise."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import phi_of
from isometry import activations
from isometry.theory.correlation import correlation_map
from isometry.theory.critical import NoCriticalPoint, critical
from isometry.theory.fixed_points import fixed_points, limit, limit_of
from isometry.theory.meanfield import chi, variance_map

NAMES = [
    "linear",
    "sigmoid",
    "tanh",
    "relu",
    "gelu",
    "silu",
    "selu",
    "erf",
    "hard_tanh",
    "softplus",
    "sine",
    "squared_relu",
]


def test_phases_of_tanh():
    assert limit(activations.tanh(), 0.9, 0.0).phase == "ordered"
    assert limit(activations.tanh(), 1.0, 0.0).phase == "critical"
    gain = limit(activations.tanh(), 5 / 3, 0.0)  # torch.nn.init.calculate_gain("tanh")
    assert gain.phase == "chaotic"
    assert gain.chi_1 == pytest.approx(1.21, abs=0.005)
    assert gain.c_star == 0.0  # odd φ, no bias


def test_glorots_sigmoid():
    """FIGURES.md: χ₁ = 0.0557, rate 0.236."""
    found = limit(activations.sigmoid(), 1.0, 0.0)
    assert found.chi_1 == pytest.approx(0.0557, abs=5e-5)
    assert math.sqrt(found.chi_1) == pytest.approx(0.236, abs=5e-4)
    assert found.xi_gradient == pytest.approx(-1 / math.log(found.chi_1))


def test_relu_has_a_fixed_point_only_below_criticality():
    """q* = σ_b²/(1 - σ_w²/2); beyond, q grows without bound and δ by σ_w²/2 a layer."""
    assert limit(activations.relu(), 1.0, 0.1).q_star == pytest.approx(0.01 / 0.5, rel=1e-9)
    beyond = limit(activations.relu(), 1.6, 0.1)
    assert (beyond.bounded, beyond.q_star, beyond.chi_1) == (False, math.inf, pytest.approx(1.28))
    he = limit(activations.relu(), math.sqrt(2), 0.0)
    assert math.isnan(he.q_star)
    assert he.phase == "critical"


def test_selu_keeps_length_one_and_explodes_slowly():
    """Klambauer et al. 2017; χ there is 1.0716."""
    found = limit(activations.selu(), 1.0, 0.0)
    assert found.q_star == pytest.approx(1.0, abs=1e-6)
    assert found.chi_1 == pytest.approx(1.0716, abs=1e-4)
    assert found.phase == "chaotic"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("sigma_w", "sigma_b"), [(0.5, 0.1), (1.3, 0.3), (3.0, 0.0)])
def test_a_fixed_point_is_left_alone_and_a_stable_one_attracts(name, sigma_w, sigma_b):
    phi = phi_of(name)
    for point in fixed_points(phi, sigma_w, sigma_b):
        if not 0 < point.q < math.inf:
            continue
        assert variance_map(phi, point.q, sigma_w, sigma_b) == pytest.approx(point.q, rel=1e-6)
        up, down = (
            variance_map(phi, f * point.q, sigma_w, sigma_b) / point.q for f in (1.001, 0.999)
        )
        assert (up - down) / 0.002 == pytest.approx(point.slope, rel=2e-3, abs=2e-3)
        assert (abs(up - 1) < 1e-3) is point.stable


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_gelus_critical_point_says_that_it_is_unstable(name):
    point = critical(phi_of(name), 0.0)
    assert not point.stable
    assert "unstable" in point.note
    assert critical(activations.tanh()).stable
    assert "χ does not depend on q" in critical(activations.relu(), 0.1).note


@pytest.mark.parametrize(
    ("name", "sigma_w2", "sigma_b2", "q_star"),
    [
        ("gelu", 1.98305826, 0.17292239, (3 + math.sqrt(17)) / 2),
        ("silu", 1.98800468, 0.55514317, 14.32017362),
    ],
)
def test_without_a_stable_point_the_half_stable_one_is_taken(name, sigma_w2, sigma_b2, q_star):
    """Roberts, Yaida & Hanin 2022, sec. 5.3.4; our q* to the 1e-6 of the table of moments."""
    point = critical(phi_of(name))
    assert point.kind == "half_stable"
    assert point.sigma_w**2 == pytest.approx(sigma_w2, rel=1e-6)
    assert point.sigma_b**2 == pytest.approx(sigma_b2, rel=3e-6)
    assert point.q_star == pytest.approx(q_star, rel=3e-6)
    assert "from one side" in point.note


@pytest.mark.parametrize("name", ["gelu", "silu", "mish", "swish"])
def test_lengths_hardly_move_at_the_half_stable_point(name):
    """Over 100 layers from 0.7 or 1.3 q* by less than a half, and χ stays within 2 % of 1; at the
    point without biases they leave for good.
    """
    phi = phi_of(name)
    point = critical(phi)
    for start in (0.7, 1.3):
        q = start * point.q_star
        for _ in range(100):
            q = variance_map(phi, q, point.sigma_w, point.sigma_b)
        assert 0.6 * point.q_star < q < 1.5 * point.q_star
        assert chi(phi, q, point.sigma_w) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("name", ["tanh", "selu", "sigmoid", "softplus", "sine"])
def test_a_point_without_biases_is_kept_where_there_is_no_better_one(name):
    assert critical(phi_of(name)) == critical(phi_of(name), 0.0)


def test_normalized_networks():
    """relu: π/(π-1) under batch norm (Yang et al. 2019); exactly 1 under RMS norm, whatever σ_w,
    without biases.
    """
    assert limit_of(activations.relu(), "batch", 1.0, 0.0, 4096)[0] == pytest.approx(
        math.pi / (math.pi - 1), rel=1e-3
    )
    for sigma_w in (0.3, 1.0, 5.0):
        assert limit_of(activations.relu(), "rms", sigma_w, 0.0, 128)[0] == pytest.approx(
            1.0, rel=1e-9
        )


def corners():
    for name, sigma_w, sigma_b in itertools.product(
        NAMES, [0.0, 1e-8, 1e-3, 30.0, 1e6], [0.0, 1e-8, 2.0]
    ):
        # a wave of hundreds of periods takes seconds
        long = name == "sine" and sigma_w >= 30
        yield pytest.param(name, sigma_w, sigma_b, marks=(pytest.mark.slow,) if long else ())


@pytest.mark.parametrize(("name", "sigma_w", "sigma_b"), list(corners()))
def test_the_corners_of_the_domain_are_finite(name, sigma_w, sigma_b):
    found = limit(phi_of(name), sigma_w, sigma_b)
    assert math.isfinite(found.chi_1)
    assert found.chi_1 >= 0
    assert found.phase in ("ordered", "critical", "chaotic")


def test_negative_scales_are_refused():
    with pytest.raises(ValueError, match="not negative"):
        fixed_points(activations.tanh(), -1.0, 0.0)


scales = st.one_of(st.just(0.0), st.floats(1e-12, 1e9))


lengths = st.floats(1e-20, 1e12)
correlations = st.floats(-1, 1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted({*NAMES} - {"sine"})),
    st.floats(1e-12, 1e9),
    scales,
    lengths,
    correlations,
)
def test_anywhere_on_the_domain_maps_are_finite_and_lengths_positive(name, sigma_w, sigma_b, q, c):
    check_maps(phi_of(name), sigma_w, sigma_b, q, c)


@pytest.mark.slow
@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.floats(1e-12, 1e9), scales, lengths, correlations)
def test_so_they_are_for_a_wave_of_hundreds_of_periods(sigma_w, sigma_b, q, c):
    check_maps(activations.sine(), sigma_w, sigma_b, q, c)


def check_maps(phi, sigma_w, sigma_b, q, c):
    length = variance_map(phi, q, sigma_w, sigma_b)
    assert math.isfinite(length)
    assert length >= sigma_b**2 * (1 - 1e-12)
    assert math.isfinite(chi(phi, q, sigma_w))
    assert -1 - 1e-9 <= correlation_map(phi, c, q, sigma_w, sigma_b) <= 1 + 1e-9


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.sampled_from(NAMES), st.one_of(st.just(0.0), st.floats(1e-6, 10.0)))
def test_a_critical_point_has_chi_one_or_is_a_named_error(name, sigma_b):
    phi = phi_of(name)
    try:
        point = critical(phi, sigma_b)
    except NoCriticalPoint:
        return
    q = {0.0: 1e-20, math.inf: 1e8}.get(
        point.q_star, 1.0 if math.isnan(point.q_star) else point.q_star
    )
    assert chi(phi, q, point.sigma_w) == pytest.approx(1.0, rel=1e-6)
    if 0 < point.q_star < math.inf:
        assert variance_map(phi, point.q_star, point.sigma_w, sigma_b) == pytest.approx(
            point.q_star, rel=1e-6
        )
