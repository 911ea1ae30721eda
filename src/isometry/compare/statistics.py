"""Intervals, shares of variance and rank correlations over seeds and configurations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special, stats
from scipy.linalg import orth

Array = NDArray[np.float64]

Method = Literal["t", "bootstrap", "none"]

LEVEL = 0.95
ENOUGH_TO_RESAMPLE = 10
"""Replicates from which on the bootstrap's interval is taken: with fewer, resampling knows too few
values, and Student's t, which assumes them normal, covers better.
"""
PERCENTILES = (50 - 50 * LEVEL, 50 + 50 * LEVEL)
RESAMPLES = 2_000
NORMAL = 0.01
"""p value of Shapiro and Wilk's test under which residuals are not taken for normal."""


@dataclass(frozen=True)
class Mean:
    """A mean over replicates and its 95 % interval.

    Attributes:
        value: the mean; geometric where asked for. NaN of nothing.
        low, high: the interval; NaN of one replicate.
        n: replicates that entered.
        zeros: replicates that have no logarithm, of a geometric mean.
        method: `t`, `bootstrap`, or `none`.
    """

    value: float
    low: float
    high: float
    n: int
    method: Method
    zeros: int = 0


def mean_of(values: Sequence[float] | pd.Series, geometric: bool = False) -> Mean:
    """The mean of the finite values (of a geometric mean: the positive ones), with Student's t
    interval, or from `ENOUGH_TO_RESAMPLE` replicates on the bias-corrected and accelerated
    bootstrap (Efron 1987).
    """
    array = np.asarray(values, dtype=np.float64)
    zeros = int((array == 0).sum()) if geometric else 0
    array = array[np.isfinite(array) & ((array > 0) | (not geometric))]
    if geometric:
        array = np.log(array)
    low, high, method = _interval(array)
    value = float(array.mean()) if len(array) else math.nan
    if geometric:
        with np.errstate(over="ignore"):
            value, low, high = map(float, np.exp([value, low, high]))
    return Mean(value, low, high, len(array), method, zeros)


def _interval(array: Array) -> tuple[float, float, Method]:
    if len(array) < 2:
        return math.nan, math.nan, "none"
    mean = float(array.mean())
    if np.ptp(array) <= 1e-12 * abs(mean):  # guessing, say: the same share of right answers
        return mean, mean, "t"
    if len(array) < ENOUGH_TO_RESAMPLE:
        half = stats.t.ppf(0.5 + LEVEL / 2, len(array) - 1) * stats.sem(array)
        return mean - half, mean + half, "t"
    found = stats.bootstrap(
        (array,),
        np.mean,
        confidence_level=LEVEL,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high), "bootstrap"


# ---- which is best -------------------------------------------------------------------------------


def not_told_from(best: int, groups: Sequence[Array]) -> list[bool]:
    """Which groups cannot be told from the best one: Welch's t test against it at 5 %, with Holm's
    correction over all the others (Holm 1979).

    Groups of one replicate cannot be told from anything.
    """
    others = [index for index in range(len(groups)) if index != best]
    p = {index: _welch(groups[best], groups[index]) for index in others}
    told: set[int] = set()
    for place, index in enumerate(sorted(others, key=lambda i: p[i])):
        if p[index] * (len(others) - place) > 1 - LEVEL:
            break
        told.add(index)
    return [index not in told for index in range(len(groups))]


def _welch(a: Array, b: Array) -> float:
    if min(len(a), len(b)) < 2:
        return 1.0
    if np.ptp(a) == 0 and np.ptp(b) == 0:
        return 1.0 if a[0] == b[0] else 0.0
    first = a.mean(), a.std(ddof=1), len(a)
    second = b.mean(), b.std(ddof=1), len(b)
    return float(stats.ttest_ind_from_stats(*first, *second, equal_var=False).pvalue)


# ---- what explains the difference ----------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """A source's share of the variance of a metric, η².

    Attributes:
        source: a factor, `interactions`, or `seeds`.
        value: SS of the source / SS total (type II: what the factor adds to all others).
        low, high: 95 % interval over seeds; NaN without replicates.
    """

    source: str
    value: float
    low: float
    high: float


def shares(values: Array, factors: pd.DataFrame) -> list[Share]:
    """How the variance of a metric splits over the factors, their interactions and the seeds.

    Sums of squares are type II (each factor beside all others, without interactions), which in a
    balanced design add up to the whole.

    Args:
        values: the metric of each run, finite.
        factors: their levels, a row a run.
    """
    names, sums, freedom = sums_of_squares(values, factors)
    total = sums.sum()
    if total == 0:
        return [Share(name, math.nan, math.nan, math.nan) for name in names]
    low, high = _population(sums, freedom, len(values))
    return [
        Share(name, float(sums[i] / total), float(low[i]), float(high[i]))
        for i, name in enumerate(names)
    ]


def sums_of_squares(values: Array, factors: pd.DataFrame) -> tuple[list[str], Array, Array]:
    """Sources, their sums of squares and degrees of freedom: the factors, `interactions` (where
    there are several factors), `seeds`.
    """
    cell = cells_of(factors)
    dummies = [pd.get_dummies(factors[name].astype(str)).to_numpy(float) for name in factors]
    models = [[*dummies[:index], *dummies[index + 1 :]] for index in range(len(dummies))]
    *without, main = (_explained(values, columns) for columns in [*models, dummies])
    cells = _explained(values, [np.eye(cell.max() + 1)[cell]])
    total = float(((values - values.mean()) ** 2).sum()), len(values) - 1
    rows = [*((*factors.columns[[i]], main, left) for i, left in enumerate(without))]
    rows += [("interactions", cells, main)] if len(dummies) > 1 else []
    rows += [("seeds", total, cells)]
    sums = np.array([max(more[0] - less[0], 0.0) for _, more, less in rows])
    freedom = np.array([more[1] - less[1] for _, more, less in rows], dtype=np.float64)
    return [str(name) for name, _, _ in rows], sums, freedom


def cells_of(factors: pd.DataFrame) -> NDArray[np.int64]:
    """The number of each run's configuration, in the order in which they come."""
    words = factors.astype(str).agg("\x1f".join, axis=1)
    return pd.factorize(words)[0].astype(np.int64)


def _explained(values: Array, columns: Sequence[Array]) -> tuple[float, int]:
    """Sum of squares about the mean that a linear model explains, and its degrees of freedom."""
    basis = orth(np.column_stack([np.ones(len(values)), *columns]))
    fitted = basis @ (basis.T @ (values - values.mean()))
    return float((fitted**2).sum()), basis.shape[1] - 1


def _population(sums: Array, freedom: Array, runs: int) -> tuple[Array, Array]:
    """95 % interval of each share as it would be with infinitely many seeds.

    A source's sum of squares over the seeds' variance is noncentral χ². Of both the confidence
    distribution is drawn from: the variance from SS/χ², then the noncentrality λ with
    P(χ'² <= SS; λ) uniform; a source's variance is λ/runs of the seeds'. Coverage:
    `tests/compare/test_statistics.py`.
    """
    if freedom[-1] < 1 or sums[-1] == 0:
        nothing = np.full(len(sums), math.nan)
        return nothing, nothing
    generator = np.random.default_rng(0)
    variance = sums[-1] / generator.chisquare(freedom[-1], RESAMPLES)
    parts = [
        noncentrality(ss / variance, df, generator.uniform(size=RESAMPLES)) / runs
        for ss, df in zip(sums[:-1], freedom[:-1], strict=True)
    ]
    drawn = np.array([*parts, np.ones(RESAMPLES)])
    low, high = np.percentile(drawn / drawn.sum(axis=0), PERCENTILES, axis=1)
    return low, high


def noncentrality(x: Array, freedom: float, level: Array) -> Array:
    """λ with P(χ'² <= x; λ) = level; 0 where it is lower at λ = 0 already."""
    if freedom < 1:
        return np.zeros_like(x)
    return np.asarray(special.chndtrinc(x, freedom, level), dtype=np.float64)


def is_normal(values: Array, factors: pd.DataFrame) -> bool:
    """Whether what the configurations leave of a metric passes for normal (Shapiro & Wilk 1965)."""
    groups = [factors[name].astype(str) for name in factors]
    left = values - pd.Series(values).groupby(groups).transform("mean").to_numpy()
    if len(left) < 3 or np.ptp(left) == 0:
        return False
    return bool(stats.shapiro(left).pvalue >= NORMAL)


# ---- what was known before the first step --------------------------------------------------------


@dataclass(frozen=True)
class Correlation:
    """Spearman's ρ of two numbers of each run.

    Attributes:
        value: ρ; NaN where one of them is constant.
        low, high: 95 % interval, the configurations resampled; NaN with fewer than 5 of them.
        runs, configurations: that entered.
    """

    value: float
    low: float
    high: float
    runs: int
    configurations: int


def spearman(x: Array, y: Array, cell: NDArray[np.int64]) -> Correlation:
    """Rank correlation over runs. Seeds of a configuration are not independent: whole
    configurations are resampled (percentiles of `RESAMPLES`).

    Args:
        x, y: of each run, finite or infinite, not NaN.
        cell: the configuration of each run.
    """
    cells, of_run = np.unique(cell, return_inverse=True)
    (value,) = _rho(x, y, np.ones((1, len(x))))
    low = high = math.nan
    if len(cells) >= FEWEST_CELLS and math.isfinite(value):
        equal = np.full(len(cells), 1 / len(cells))
        drawn = np.random.default_rng(0).multinomial(len(cells), equal, RESAMPLES).astype(float)
        parts = np.array_split(drawn, 1 + len(x) // 100)  # all at once need memory
        rhos = np.concatenate([_rho(x, y, part[:, of_run]) for part in parts])
        low, high = np.nanpercentile(rhos, PERCENTILES)
    return Correlation(float(value), float(low), float(high), len(x), len(cells))


FEWEST_CELLS = 5


def _rho(x: Array, y: Array, counts: Array) -> Array:
    """Rank correlation in each of R samples, [R], where run i stands counts[:, i] times; NaN where
    all are tied.
    """
    a = _centred_ranks(x, counts)
    b = _centred_ranks(y, counts)
    ab, aa, bb = ((counts * p * q).sum(1) for p, q in ((a, b), (a, a), (b, b)))
    with np.errstate(invalid="ignore"):
        rho: Array = ab / np.sqrt(aa * bb)
    return rho


def _centred_ranks(x: Array, counts: Array) -> Array:
    """Ranks (of ties their mean) less (n + 1)/2, which is the mean of all, [R, N]."""
    values, place = np.unique(x, return_inverse=True)
    order = np.argsort(place)
    first = np.searchsorted(place[order], np.arange(len(values)))
    alike = np.add.reduceat(counts[:, order], first, axis=1)  # of each value
    ranks = alike.cumsum(1) - (alike - 1) / 2
    centred: Array = ranks[:, place] - (counts.sum(1, keepdims=True) + 1) / 2
    return centred
