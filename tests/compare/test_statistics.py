"""Intervals, shares of variance and correlations against statsmodels, closed forms, simulation."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.multitest import multipletests

from isometry.compare.statistics import (
    _rho,
    is_normal,
    mean_of,
    noncentrality,
    not_told_from,
    shares,
    spearman,
    sums_of_squares,
)


def two_way(replicates: int) -> pd.DataFrame:
    cells = [(a, b) for a in "xyz" for b in (10, 20, 30, 40) for _ in range(replicates)]
    return pd.DataFrame(cells, columns=["a", "b"], dtype=object)


# ---- means ---------------------------------------------------------------------------------------


def test_students_interval_by_hand():
    """0.1, 0.2, 0.3: standard error 0.1/sqrt 3, t(0.975; 2) = 4.302653."""
    found = mean_of([0.1, 0.2, 0.3])
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (found.value, found.n, found.method) == (pytest.approx(0.2), 3, "t")
    assert (found.low, found.high) == (pytest.approx(0.2 - half), pytest.approx(0.2 + half))


def test_a_geometric_mean_is_of_logarithms():
    found = mean_of([0.01, 1, 100], geometric=True)
    half = 4.302653 * math.log(100) / math.sqrt(3)
    assert found.value == pytest.approx(1)
    assert found.high == pytest.approx(math.exp(half), rel=1e-6)
    assert found.low == pytest.approx(math.exp(-half), rel=1e-6)


def test_what_has_no_logarithm_or_no_value_does_not_enter():
    assert mean_of([0.0, 2.0, math.inf, math.nan], geometric=True).n == 1
    assert mean_of([0.0, 2.0, math.inf, math.nan], geometric=True).zeros == 1
    assert mean_of([0.0, 2.0], geometric=False).n == 2
    assert mean_of([math.nan]).n == 0


def test_one_replicate_has_no_interval_and_equal_ones_have_none_to_speak_of():
    alone = mean_of([0.5])
    assert math.isnan(alone.low)
    assert alone.method == "none"
    equal = mean_of([0.1, 0.1, 0.1])
    assert (equal.low, equal.high) == (pytest.approx(0.1), pytest.approx(0.1))


@pytest.mark.parametrize("n", [3, 5, 12, 30])
def test_the_interval_covers(n):
    """95 % of 400 normal samples: at least 91.5 % by three standard errors; the bootstrap of a
    dozen is known to fall a few percent short.
    """
    samples = np.random.default_rng(0).normal(1, 1, (400, n))
    found = [mean_of(sample) for sample in samples]
    assert found[0].method == ("t" if n < 10 else "bootstrap")
    inside = np.mean([each.low <= 1 <= each.high for each in found])
    assert inside > (0.915 if n < 10 else 0.88)


# ---- which is best -------------------------------------------------------------------------------


def test_what_cannot_be_told_is_holms_of_welchs_p():
    generator = np.random.default_rng(1)
    groups = [generator.normal(mean, 1, 6) for mean in (3, 2.5, 1.2, 0.9, 0.4)]
    p = [stats.ttest_ind(groups[0], group, equal_var=False).pvalue for group in groups[1:]]
    rejected = multipletests(p, alpha=0.05, method="holm")[0]
    assert 0 < rejected.sum() < len(rejected)
    assert not_told_from(0, groups) == [True, *(~rejected)]


def test_groups_without_spread_are_told_by_their_value():
    groups = [np.array([1.0, 1.0]), np.array([1.0, 1.0]), np.array([0.5, 0.5])]
    assert not_told_from(0, groups) == [True, True, False]


# ---- shares of variance --------------------------------------------------------------------------


@pytest.mark.parametrize("balanced", [True, False])
def test_sums_of_squares_are_statsmodels_type_ii(balanced):
    generator = np.random.default_rng(2)
    factors = two_way(3) if balanced else two_way(3).drop([0, 5, 6, 20]).reset_index(drop=True)
    values = generator.normal(size=len(factors)) + (factors["a"] == "x") + factors["b"] / 20.0
    values = values.to_numpy(dtype=float)
    names, sums, freedom = sums_of_squares(values, factors)
    frame = factors.assign(y=values)
    main = sm.stats.anova_lm(ols("y ~ C(a) + C(b)", frame).fit(), typ=2)
    full = sm.stats.anova_lm(ols("y ~ C(a) * C(b)", frame).fit(), typ=2)
    assert names == ["a", "b", "interactions", "seeds"]
    expected = [main.loc["C(a)"], main.loc["C(b)"], full.loc["C(a):C(b)"], full.loc["Residual"]]
    assert sums == pytest.approx([row["sum_sq"] for row in expected], rel=1e-9)
    assert freedom == pytest.approx([row["df"] for row in expected])


def test_eta_squared_by_hand():
    """1, 3 and 5, 7: about 4 the squares sum to 20, between the groups to 16, within to 4."""
    found = {each.source: each for each in shares(np.array([1.0, 3, 5, 7]), _one([0, 0, 1, 1]))}
    assert found["f"].value == pytest.approx(0.8)
    assert found["seeds"].value == pytest.approx(0.2)


def _one(levels):
    return pd.DataFrame({"f": pd.Series(levels, dtype=object)})


def test_without_seeds_there_is_no_interval():
    found = shares(np.array([1.0, 2, 4]), _one([0, 1, 2]))
    assert math.isnan(found[0].low)
    assert shares(np.ones(4), _one([0, 0, 1, 1]))[0].value != 1  # nothing varies: NaN


def test_noncentrality_inverts_the_distribution():
    x = np.array([3.0, 20.0, 100.0])
    level = np.array([0.05, 0.5, 0.9])
    found = noncentrality(x, 3, level)
    assert stats.ncx2.cdf(x, 3, found) == pytest.approx(level, abs=1e-9)
    assert noncentrality(np.array([0.1]), 3, np.array([0.9])) == pytest.approx(0, abs=1e-300)


@pytest.mark.parametrize("sigma", [0.3, 1.0])
@pytest.mark.parametrize("replicates", [2, 5])
def test_the_interval_of_a_share_covers(replicates, sigma):
    """Of 100 studies at least 88 of each source: 95 less three standard errors."""
    generator = np.random.default_rng(3)
    a = np.array([-1, 0, 1.0])[:, None] + np.array([-0.5, 0, 0.2, 0.3])
    a = a + _centred(generator.normal(0, 0.3, (3, 4)))
    factors = two_way(replicates)
    effects = np.repeat(a.ravel(), replicates)
    main = [a.mean(1).var(), a.mean(0).var()]
    parts = np.array([*main, a.var() - sum(main), sigma**2])
    inside = np.zeros(4)
    for _ in range(100):
        found = shares(effects + generator.normal(0, sigma, len(effects)), factors)
        inside += [f.low <= t <= f.high for f, t in zip(found, parts / parts.sum(), strict=True)]
    assert inside.min() >= 88


def _centred(table):
    return table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()


def test_what_is_normal():
    generator = np.random.default_rng(4)
    factors = two_way(5)
    assert is_normal(generator.normal(size=60), factors)
    assert not is_normal(generator.exponential(size=60) ** 3, factors)


# ---- rank correlation ----------------------------------------------------------------------------


def test_spearman_is_scipys():
    generator = np.random.default_rng(5)
    x, noise = generator.normal(size=(2, 40))
    y = np.round(x + noise, 1)  # ties
    found = spearman(x, y, np.arange(40))
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.low < found.value < found.high
    assert (found.runs, found.configurations) == (40, 40)


def test_a_run_that_diverged_is_the_worst():
    found = spearman(np.array([0.1, 0.2, 3, 4]), np.array([0.9, 0.8, 0.7, -np.inf]), np.arange(4))
    assert found.value == pytest.approx(-1)
    assert math.isnan(found.low)  # four configurations are too few to be resampled


def test_ranks_of_a_resample_are_those_of_its_runs():
    """Against scipy, with ties, infinite values and runs that stand there twice or not at all."""
    generator = np.random.default_rng(1)
    x = generator.integers(0, 6, 40).astype(float)
    y = np.append(generator.normal(size=38), [np.inf, -np.inf])
    counts = generator.integers(0, 4, (50, 40)).astype(float)
    repeated = [[np.repeat(v, k.astype(int)) for v in (x, y)] for k in counts]
    expected = [stats.spearmanr(a, b).statistic for a, b in repeated]
    np.testing.assert_allclose(_rho(x, y, counts), expected, atol=1e-14)
    assert math.isnan(_rho(np.zeros(40), y, counts)[0])


def test_spearmans_interval_covers_whole_configurations():
    """Bivariate normal, ρ_s = (6/π) asin(ρ/2): of 100 studies of 30 configurations with 3 equal
    seeds, at least 85 (percentiles of so few fall a little short); seeds taken for independent
    cover far less.
    """
    generator = np.random.default_rng(6)
    true = 6 / math.pi * math.asin(0.6 / 2)
    inside = alone = 0
    for _ in range(100):
        x = generator.normal(size=30)
        y = 0.6 * x + 0.8 * generator.normal(size=30)
        cell = np.repeat(np.arange(30), 3)
        found = spearman(np.repeat(x, 3), np.repeat(y, 3), cell)
        wrong = spearman(np.repeat(x, 3), np.repeat(y, 3), np.arange(90))
        inside += found.low <= true <= found.high
        alone += wrong.low <= true <= wrong.high
    assert inside >= 85
    assert alone < inside - 10
