"""What explains the difference between runs: which factor, and what was known before the first
step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from isometry.compare.metrics import Metric, to_rank
from isometry.compare.statistics import (
    Correlation,
    Share,
    cells_of,
    is_normal,
    shares,
    spearman,
)
from isometry.compare.table import Table

KNOWN_BEFORE = (
    ("gradient_rate_predicted", "the predicted gradient rate's distance from 1"),
    ("gradient_rate_init", "the gradient rate's distance from 1 at step 0"),
    ("gradient_ratio_init", "the distance from 1 of backprop_norm's layer 1 / last at step 0"),
    ("saturation_init", "the largest saturation at step 0"),
    ("lambda_max", "the largest eigenvalue of the Hessian at step 0"),
)
"""Numbers of the summary that are known before the first step, and what of them is ordered."""
FEWEST_RUNS = 5


@dataclass(frozen=True)
class Explanation:
    """What explains a metric.

    Attributes:
        metric: which one.
        shares: of its variance; empty where nothing varies.
        ranks: whether the shares are of ranks.
        correlations: of what was known before the first step, with its name.
        diverged: runs that diverged before they had a value, and count as the worst.
        without: runs that have none for another reason, and are left out.
    """

    metric: Metric
    shares: Sequence[Share]
    ranks: bool
    correlations: Sequence[tuple[str, Correlation]]
    diverged: int
    without: int


def explain(table: Table) -> Explanation:
    """What explains the table's first metric."""
    metric = table.metrics[0]
    if table.runs.empty:
        return Explanation(metric, [], False, [], 0, 0)
    scores, diverged = _scores(table.runs, metric)
    runs = table.runs.loc[scores.index]
    names = [*table.factors, *table.averaged]
    factors = runs[[name for name in names if name != "seed" and runs[name].nunique() > 1]]
    without = len(table.runs) - len(scores)
    if len(scores) < FEWEST_RUNS or factors.empty or is_constant(scores):
        return Explanation(metric, [], False, [], diverged, without)
    ranks = bool(np.isinf(scores).any()) or not is_normal(
        np.array(scores, dtype=np.float64), factors
    )
    values = scores.rank() if ranks else scores
    found = shares(np.array(values, dtype=np.float64), factors)
    correlations = list(_correlations(runs, factors, scores))
    return Explanation(metric, found, ranks, correlations, diverged, without)


def is_constant(scores: pd.Series) -> bool:
    """Whether all are one number, but for rounding."""
    if scores.nunique() == 1 or np.isinf(scores).any():
        return scores.nunique() == 1
    return bool(np.ptp(scores) <= 1e-12 * abs(scores.mean()))


def _scores(runs: pd.DataFrame, metric: Metric) -> tuple[pd.Series, int]:
    """More is better; a run that diverged and has no number, where there is a better at all, is the
    worst. With how many of these there are.
    """
    scores = to_rank(metric, runs[metric.name])
    lost = scores.isna() & (runs["state"] == "diverged") & (metric.best is not None)
    scores = scores.mask(lost, -np.inf)
    if metric.best is None and metric.geometric:
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = np.log(scores)
    return scores.dropna(), int(lost.sum())


def _correlations(
    runs: pd.DataFrame, factors: pd.DataFrame, scores: pd.Series
) -> Iterator[tuple[str, Correlation]]:
    for key, _ in KNOWN_BEFORE:
        known = before(runs, key)
        both = known.notna()
        if both.sum() >= FEWEST_RUNS and known[both].nunique() > 1:
            cell = cells_of(factors[both])
            x = known[both].to_numpy(dtype=float)
            found = spearman(x, scores[both].to_numpy(dtype=float), cell)
            if not np.isnan(found.value):
                yield key, found


def before(runs: pd.DataFrame, key: str) -> pd.Series:
    """What was known of each run: of rates and ratios |log|, an infinite one being the farthest."""
    if key not in runs:
        return pd.Series(np.nan, index=runs.index)
    values = pd.to_numeric(runs[key], errors="coerce").astype(float)
    if not key.startswith("gradient"):
        return values
    with np.errstate(divide="ignore"):
        return pd.Series(np.log(values.where(values >= 0))).abs()


def sentences(found: Explanation) -> list[str]:
    """The explanation in words, a line each."""
    lines = []
    if found.shares:
        what = f"ranks of {found.metric.name}" if found.ranks else found.metric.name
        parts = ", ".join(_share(each) for each in _by_size(found.shares))
        known = any(not np.isnan(each.low) for each in found.shares)
        how = "eta^2 with 95 % interval" if known else "eta^2; an interval needs seeds"
        lines.append(f"variance of {what}, by factor ({how}): {parts}.")
    names = dict(KNOWN_BEFORE)
    for key, rho in found.correlations:
        lines.append(
            f"{names[key]} ({key}) orders {found.metric.name} with Spearman's rho = "
            f"{rho.value:.2f}{_interval(rho.low, rho.high)} over {rho.runs} runs of "
            f"{rho.configurations} configurations."
        )
    if found.diverged:
        lines.append(f"{found.diverged} diverged runs without a value count as the worst.")
    if found.without:
        lines.append(f"{found.without} runs without {found.metric.name} are left out.")
    return lines


def _by_size(found: Sequence[Share]) -> list[Share]:
    factors = [each for each in found if each.source not in ("interactions", "seeds")]
    rest = [each for each in found if each.source in ("interactions", "seeds")]
    return [*sorted(factors, key=lambda each: -each.value), *rest]


def _share(found: Share) -> str:
    return f"{found.source} {found.value:.2f}{_interval(found.low, found.high)}"


def _interval(low: float, high: float) -> str:
    return "" if np.isnan(low) else f" [{low:.2f}, {high:.2f}]"
