"""A claim of a paper, and what was measured of it: the 95 % interval lies inside the tolerance,
outside, or neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from isometry.errors import UserError

Result = Literal["pass", "fail", "undecided"]


@dataclass(frozen=True)
class Estimate:
    """A measured number with its 95 % interval.

    Attributes:
        value: the number.
        low, high: the interval; both the value itself where nothing is random.
        expected: what the theory says, where the figure computes it; None where the config states
            it.
    """

    value: float
    low: float
    high: float
    expected: float | None = None


def over_seeds(values: Sequence[float], expected: float | None = None) -> Estimate:
    """The mean over seeds with Student's interval; for norms hand in logarithms, or what was
    computed from them.

    Raises:
        ValueError: for fewer than two values: one seed has no interval.
    """
    if len(values) < 2:
        raise ValueError("an interval needs at least two seeds")
    array = np.asarray(values, dtype=np.float64)
    half = float(stats.t.ppf(0.975, len(array) - 1) * stats.sem(array))
    return Estimate(
        float(array.mean()), float(array.mean()) - half, float(array.mean()) + half, expected
    )


def of_logs(logs: Sequence[float], expected: float | None = None) -> Estimate:
    """exp of the mean of logarithms (the geometric mean), and of its interval."""
    e = over_seeds(logs)
    return Estimate(math.exp(e.value), math.exp(e.low), math.exp(e.high), expected)


def share(successes: int, trials: int, expected: float | None = None) -> Estimate:
    """A share of independent draws with its exact interval (Clopper & Pearson 1934)."""
    interval = stats.binomtest(successes, trials).proportion_ci(0.95, method="exact")
    return Estimate(successes / trials, float(interval.low), float(interval.high), expected)


def exact(value: float, expected: float | None = None) -> Estimate:
    """A number in which nothing is random."""
    return Estimate(value, value, value, expected)


@dataclass(frozen=True)
class Claim:
    """One line under `claims` of a figure's config. The tolerance is either `within`, `plus_minus`,
    or `low` and `high`.

    Attributes:
        id: its name.
        statement: what the paper, or the theory, says, in words.
        expected: the number, None where the figure computes it or only a bound is claimed.
        within: relative distance from the expected number.
        plus_minus: absolute distance from it.
        low, high: bounds; None: none on this side.
        why: explanation shown where the claim does not hold.
    """

    id: str
    statement: str
    expected: float | None = None
    within: float | None = None
    plus_minus: float | None = None
    low: float | None = None
    high: float | None = None
    why: str | None = None

    def tolerance(self, expected: float | None) -> tuple[float, float]:
        """Lower and upper bound.

        Raises:
            UserError: for a claim without a tolerance.
        """
        if expected is not None and self.within is not None:
            width = abs(expected) * self.within
            return expected - width, expected + width
        if expected is not None and self.plus_minus is not None:
            return expected - self.plus_minus, expected + self.plus_minus
        if self.low is None and self.high is None:
            raise UserError(
                f"claim {self.id}: give expected with within or plus_minus, or low, or high"
            )
        return (
            -math.inf if self.low is None else self.low,
            math.inf if self.high is None else self.high,
        )


def judge(claim: Claim, measured: Estimate) -> dict[str, Any]:
    """The entry of `claims.json` (DESIGN.md); a bound that does not exist is null."""
    expected = claim.expected if measured.expected is None else measured.expected
    low, high = claim.tolerance(expected)
    entry: dict[str, Any] = {
        "id": claim.id,
        "statement": claim.statement,
        "expected": expected,
        "measured": measured.value,
    }
    entry |= {"interval": [measured.low, measured.high], "tolerance": [_bound(low), _bound(high)]}
    entry["result"] = result(measured, low, high)
    return entry if claim.why is None else {**entry, "why": claim.why}


def result(measured: Estimate, low: float, high: float) -> Result:
    """`undecided` also where nothing finite was measured."""
    if low <= measured.low and measured.high <= high:
        return "pass"
    return "fail" if measured.high < low or measured.low > high else "undecided"


def _bound(value: float) -> float | None:
    return value if math.isfinite(value) else None


def judge_all(claims: Sequence[Claim], measured: Mapping[str, Estimate]) -> list[dict[str, Any]]:
    """Every claim of a config against what its figure measured.

    Raises:
        UserError: for a claim that the figure does not measure.
    """
    for claim in claims:
        if claim.id not in measured:
            raise UserError(
                f"claims: {claim.id} is not measured; this figure measures "
                f"{', '.join(sorted(measured))}"
            )
    return [judge(claim, measured[claim.id]) for claim in claims]
