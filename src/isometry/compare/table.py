"""One row a configuration: how its runs ended, and each metric over its seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from isometry.compare.collect import Collection
from isometry.compare.factors import REPLICATE, Factors
from isometry.compare.metrics import Metric, to_rank
from isometry.compare.statistics import Mean, mean_of, not_told_from
from isometry.compare.where import chosen
from isometry.errors import bad_value, nearest
from isometry.runs.table import Record, run_table


@dataclass(frozen=True)
class Configuration:
    """The runs that differ in nothing but what is averaged over.

    Attributes:
        levels: its value of each factor of the table.
        runs: rows of `Table.runs`.
        means: of each metric.
        best: whether its mean of the first metric is the best.
        tied: whether it cannot be told from the best one; itself included.
    """

    levels: Mapping[str, Any]
    runs: pd.DataFrame
    means: Mapping[str, Mean]
    best: bool = False
    tied: bool = False

    @property
    def name(self) -> str:
        """`activation=relu, model.depth=20`."""
        return ", ".join(self.words) or "all runs"

    @property
    def words(self) -> list[str]:
        """`key=value` of each factor."""
        return [f"{key}={shown_level(value)}" for key, value in self.levels.items()]


def shown_level(value: object) -> str:
    """A factor's value as somebody would type it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Table:
    """What is compared.

    Attributes:
        factors: names of the columns that tell configurations apart.
        averaged: factors over which rows average, beside seeds.
        metrics: the first one is judged.
        runs: one row a run: factors, `seed`, `run_id`, `state`, its summary and the metrics.
        rows: the configurations, in order.
        same: factor to the keys that vary exactly as it does.
        left_out: why runs are not among them, a line each.
        cut: rows that `top` has left out.
        bounds: under and over which the runs' verdicts are vanishing and exploding, each pair once.
    """

    factors: Sequence[str]
    averaged: Sequence[str]
    metrics: Sequence[Metric]
    runs: pd.DataFrame
    rows: Sequence[Configuration]
    same: Mapping[str, list[str]] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    cut: int = 0
    bounds: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Choices:
    """What of a comparison is asked for.

    Attributes:
        by: factors of the rows; None: all that vary.
        over: factors that are averaged over, like seeds.
        where: which runs, in the grammar of `pandas.DataFrame.query`.
        sort: a factor or a metric; None: by the factors.
        top: rows that are kept; None: all.
    """

    by: Sequence[str] | None = None
    over: Sequence[str] = ()
    where: str | None = None
    sort: str | None = None
    top: int | None = None


def tabulate(
    found: Collection,
    signals: Mapping[str, pd.DataFrame],
    metrics: Sequence[Metric],
    choices: Choices,
) -> Table:
    """The table of some runs.

    Args:
        found: the runs.
        signals: run id to its signals, with the columns that the metrics read.
        metrics: what is averaged; the first is judged.
        choices: which runs and rows.

    Raises:
        UserError: for a choice that the runs do not have.
    """
    if not found.records:
        return Table([], [], metrics, pd.DataFrame(), [], {}, found.left_out)
    runs = run_frame(found, signals, metrics)
    kept = runs if choices.where is None else chosen(runs, found.records, choices.where)
    names, averaged = _rows_by(found.factors, kept, choices)
    rows = [_configuration(levels, group, names, metrics) for levels, group in _groups(kept, names)]
    rows = _judged(_in_order(rows, names, found.factors), metrics[0])
    rows = rows if choices.sort is None else _sorted(rows, names, metrics, choices.sort)
    top = len(rows) if choices.top is None else choices.top
    same = {name: keys for name, keys in found.factors.same.items() if name in names}
    cut = len(rows) - len(rows[:top])
    bounds = bounds_of(found.records)
    return Table(names, averaged, metrics, kept, rows[:top], same, found.left_out, cut, bounds)


def bounds_of(records: Sequence[Record]) -> list[tuple[float, float]]:
    """`verdict.*` of the runs, each pair once."""
    keys = ("verdict.vanishing_below", "verdict.exploding_above")
    found = [tuple(record.config.get(key) for key in keys) for record in records]
    proper = [pair for pair in found if all(isinstance(end, int | float) for end in pair)]
    return list(dict.fromkeys(proper))  # type: ignore[arg-type]


def _groups(runs: pd.DataFrame, names: Sequence[str]) -> Iterator[tuple[Any, pd.DataFrame]]:
    if names:
        yield from runs.groupby(list(names), sort=False, dropna=False)
    else:
        yield (), runs


def run_frame(
    found: Collection, signals: Mapping[str, pd.DataFrame], metrics: Sequence[Metric]
) -> pd.DataFrame:
    """One row a run: factors, seed, state, summary, metrics."""
    table = run_table(found.records)
    table["seed"] = [record.seed for record in found.records]
    nothing = pd.DataFrame({"step": [], "layer": []})
    values = {
        metric.name: [
            metric.of(record.summary, signals.get(record.run.run_id, nothing))
            for record in found.records
        ]
        for metric in metrics
    }
    taken = [name for name in table if name in values or name in found.factors.names]
    summary = table.drop(columns=taken)
    return pd.concat([found.factors.values, summary, pd.DataFrame(values)], axis=1)


# ---- rows ----------------------------------------------------------------------------------------


def _rows_by(factors: Factors, runs: pd.DataFrame, choices: Choices) -> tuple[list[str], list[str]]:
    """Names of the factors that make rows, and of those that are averaged over."""
    for key in ("by", "over"):
        for name in getattr(choices, key) or ():
            if name not in (*factors.names, REPLICATE):
                allowed = ", ".join(factors.names) or "none: nothing varies"
                suggestion = nearest(name, factors.names)
                raise bad_value(key, name, f"does not vary{suggestion}; what varies is {allowed}")
    varying = [name for name in factors.names if runs[name].nunique(dropna=False) > 1]
    asked = [name for name in dict.fromkeys(choices.by or ()) if name != REPLICATE]
    rows = asked if choices.by is not None else varying or factors.names[:1]
    rows = [name for name in rows if name not in choices.over]
    if REPLICATE in (choices.by or ()):
        rows.append(REPLICATE)
    return rows, [name for name in varying if name not in rows]


def _configuration(
    levels: Any, group: pd.DataFrame, names: Sequence[str], metrics: Sequence[Metric]
) -> Configuration:
    means = {metric.name: mean_of(group[metric.name], metric.geometric) for metric in metrics}
    return Configuration(dict(zip(names, levels, strict=True)), group, means)


def _in_order(
    rows: Sequence[Configuration], names: Sequence[str], factors: Factors
) -> list[Configuration]:
    """By the factors' values as the sweep gave them."""
    places = {
        name: {value: place for place, value in enumerate(factors.levels(name))}
        for name in names
        if name in factors.names
    }

    def key(row: Configuration) -> tuple[Any, ...]:
        return tuple(places[name][row.levels[name]] for name in places)

    return sorted(rows, key=key)


def _judged(rows: Sequence[Configuration], metric: Metric) -> list[Configuration]:
    """With the best row marked, and those that cannot be told from it. A row of which some runs
    diverged is not the best for what the others reached, unless every row is such a one.
    """
    scores = _whole_scores(rows, metric)
    if metric.best is None or np.isnan(scores).all() or len(rows) < 2:
        return list(rows)
    best = int(np.nanargmax(scores))
    groups = [_finite(to_rank(metric, row.runs[metric.name])) for row in rows]
    tied = not_told_from(best, groups)
    replicates = len(groups[best]) > 1
    return [
        Configuration(
            row.levels,
            row.runs,
            row.means,
            best=index == best,
            tied=index == best or (replicates and len(groups[index]) > 1 and tied[index]),
        )
        for index, row in enumerate(rows)
    ]


def _whole_scores(rows: Sequence[Configuration], metric: Metric) -> list[float]:
    scores = pd.Series([_score(row, metric) for row in rows], dtype=float)
    whole = pd.Series([row.means[metric.name].n == len(row.runs) for row in rows])
    return list(scores.where(whole) if whole.any() else scores)


def _score(row: Configuration, metric: Metric) -> float:
    """What rows are ordered by: the mean of what is tested; where nothing is the best, the mean."""
    if metric.best is None:
        return row.means[metric.name].value
    known = _finite(to_rank(metric, row.runs[metric.name]))
    return float(known.mean()) if len(known) else math.nan


def _finite(values: pd.Series) -> Any:
    array = values.to_numpy(dtype=np.float64)
    return array[np.isfinite(array)]


def _sorted(
    rows: Sequence[Configuration], names: Sequence[str], metrics: Sequence[Metric], by: str
) -> list[Configuration]:
    """By a metric, the best (or else the largest) first; by a factor, as the sweep gave it.

    Raises:
        UserError: for what is neither.
    """
    found = next((metric for metric in metrics if metric.name == by), None)
    if found is not None:
        scores = np.array([_score(row, found) for row in rows])
        places = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")
        return [rows[index] for index in places]
    if by not in names:
        allowed = ", ".join([*names, *(metric.name for metric in metrics)])
        raise bad_value("sort", by, f"is no column; allowed are {allowed}")
    order = list(dict.fromkeys(row.levels[by] for row in rows))
    return sorted(rows, key=lambda row: order.index(row.levels[by]))
