"""Intervals against closed forms, and what becomes of a claim."""

import math

import pytest
from scipy import stats

from isometry.errors import UserError
from isometry.figures.claims import (
    Claim,
    Estimate,
    exact,
    judge,
    judge_all,
    of_logs,
    over_seeds,
    result,
    share,
)


def test_students_interval_by_hand():
    found = over_seeds([1.0, 2.0, 3.0])
    half = 4.302652729911275 * 1.0 / math.sqrt(3)  # t(0.975, 2) from a table; standard deviation 1
    assert (found.value, found.low, found.high) == pytest.approx(
        (2.0, 2.0 - half, 2.0 + half), rel=1e-9
    )


def test_the_interval_covers_95_percent():
    samples = stats.norm().rvs(size=(4000, 5), random_state=0)
    covered = (
        sum(found.low <= 0 <= found.high for found in map(over_seeds, samples.tolist())) / 4000
    )
    assert 0.94 < covered < 0.96  # three standard deviations of a share of 4,000 are 0.01


def test_geometric_mean():
    found = of_logs([math.log(2), math.log(8)], expected=4.0)
    assert found.value == pytest.approx(4.0)
    assert found.low * found.high == pytest.approx(16.0)


def test_exact_interval_of_a_share():
    found = share(0, 10)
    assert (found.value, found.low) == (0.0, 0.0)
    # closed form where nothing was found
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 10), rel=1e-9)


def test_one_seed_has_no_interval():
    with pytest.raises(ValueError, match="two seeds"):
        over_seeds([1.0])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.9, 1.1, "pass"),
        (1.05, 2.0, "undecided"),
        (0.5, 1.5, "pass"),
        (1.2, 2.0, "fail"),
        (0.0, 0.9, "fail"),
        (0.0, 1.0, "undecided"),
    ],
)
def test_inside_outside_or_neither(low, high, expected):
    assert result(Estimate(1.0, 0.95, 1.08), low, high) == expected


def test_nothing_measured_is_not_a_pass():
    assert result(Estimate(math.nan, math.nan, math.nan), 0.0, 1.0) == "undecided"


def test_tolerances():
    assert Claim("a", "", expected=2.0, within=0.05).tolerance(2.0) == pytest.approx((1.9, 2.1))
    assert Claim("a", "", expected=-2.0, within=0.05).tolerance(-2.0) == pytest.approx((-2.1, -1.9))
    assert Claim("a", "", expected=0.0, plus_minus=0.1).tolerance(0.0) == pytest.approx((-0.1, 0.1))
    assert Claim("a", "", low=1.0).tolerance(None) == (1.0, math.inf)
    with pytest.raises(UserError, match="claim a: give"):
        Claim("a", "").tolerance(1.0)


def test_an_entry_of_claims_json():
    entry = judge(Claim("a", "words", high=1.0), exact(0.5))
    assert entry == {
        "id": "a",
        "statement": "words",
        "expected": None,
        "measured": 0.5,
        "interval": [0.5, 0.5],
        "tolerance": [None, 1.0],
        "result": "pass",
    }


def test_what_the_figure_computes_wins_over_the_config():
    assert (
        judge(Claim("a", "", expected=1.0, within=0.1), exact(2.0, expected=2.0))["result"]
        == "pass"
    )


def test_a_claim_that_is_not_measured():
    with pytest.raises(UserError, match="b is not measured; this figure measures a"):
        judge_all([Claim("b", "", low=0.0)], {"a": exact(1.0)})
