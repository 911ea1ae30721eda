import math

import numpy as np
import pytest
from scipy.stats import t as student

from isometry.gradient_rate import gradient_rate, gradient_ratio, increments, verdict


def test_rate_of_a_geometric_profile_is_its_factor():
    # layer 1 first: each layer's norm is half of the next one's
    rate = gradient_rate(0.5 ** np.arange(9, -1, -1.0))
    assert rate.rate == pytest.approx(0.5, rel=1e-12)
    assert (rate.low, rate.high) == pytest.approx((0.5, 0.5))
    assert rate.increments == 9


def test_interval_is_students_over_increments():
    logs = np.array([0.3, -0.1, 0.2, 0.05])
    profile = np.exp(np.concatenate([np.cumsum(logs[::-1])[::-1], [0.0]]))
    half = student.ppf(0.975, 3) * logs.std(ddof=1) / 2
    rate = gradient_rate(profile)
    assert math.log(rate.rate) == pytest.approx(logs.mean())
    assert math.log(rate.high / rate.rate) == pytest.approx(half)


def test_interval_covers_a_random_walk():
    """95 % of random walks with Gaussian increments have the true rate inside; a least-squares
    interval has 16 %.
    """
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        walk = np.cumsum(rng.normal(-0.2, 0.3, 30))[::-1]
        rate = gradient_rate(np.exp(walk))
        inside += rate.low <= math.exp(-0.2) <= rate.high
    assert 0.935 < inside / 2000 < 0.965  # ± 3 standard errors


def test_underflowed_and_overflowed_layers_are_left_out():
    assert len(increments([0.0, 0.0, 1e-30, 1e-20, 1e-10])) == 2
    assert gradient_rate([0.0, 1e-30, 1e-20, 1e-10]).rate == pytest.approx(1e-10)
    assert gradient_rate([math.inf, 4.0, 2.0]).rate == pytest.approx(2.0)


def test_nothing_to_fit_is_nan():
    for profile in ([], [1.0], [0.0, 0.0], [math.nan, 1.0]):
        assert math.isnan(gradient_rate(profile).rate)


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ([1e-3, 1.0], "vanishing"),
        ([1e-2, 1.0], "healthy"),
        ([1e2, 1.0], "healthy"),
        ([101.0, 1.0], "exploding"),
        ([0.0, 1.0], "vanishing"),
        ([math.inf, 1.0], "exploding"),
        ([0.0, 0.0], None),
        ([], None),
    ],
)
def test_verdict(profile, expected):
    assert verdict(gradient_ratio(profile), 1e-2, 1e2) == expected


def test_thresholds_are_the_callers():
    assert verdict(0.5, vanishing_below=0.6, exploding_above=1e2) == "vanishing"
