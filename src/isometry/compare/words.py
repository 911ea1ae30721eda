"""A table in words: means, states, legend, notes; for the terminal, the documents and the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from isometry.compare.metrics import Metric
from isometry.compare.statistics import Mean
from isometry.compare.table import Table
from isometry.gradient_rate import SATURATED

VERDICT = (
    "verdict, at step 0: vanishing where backprop_norm of layer 1 is under {low} of the last "
    "hidden layer's, or of a recurrence's first time step under {low} of the last one's; exploding "
    "over {high} (verdict.* sets other bounds)."
)
OUTCOME = "outcome: learned where the test is above guessing by 3 standard errors."
MEANINGS = {
    "gradient_rate_init": "factor on backprop_norm a layer going back, at step 0",
    "gradient_rate_time_init": "factor on backprop_norm a time step going back, at step 0",
    "gradient_ratio_time_init": "backprop_norm of the first time step over the last's, at step 0",
    "gradient_ratio_init": "backprop_norm of layer 1 over the last hidden layer's, at step 0",
    "saturation_init": "largest share of a layer's units at step 0",
    "displacement.layer_1": "|W_t - W_0| / |W_0| at the end",
    "update_ratio.largest": "largest |dW| / |W| of any layer and step",
}


def counted(runs: pd.DataFrame, column: str) -> list[tuple[str, str]]:
    """The words of a column, and each with how many runs have it (where not all do), and where they
    diverged.
    """
    found = []
    for word, part in counts(runs, column):
        number = "" if len(part) == len(runs) else f"{len(part)} "
        where = REASONS[word, column](part) if (word, column) in REASONS else ""
        found.append((word, f"{number}{word}{where and f' {where}'}"))
    return found


def counts(runs: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame]]:
    """The words of a column and the runs that have each; `-` for runs that have none."""
    words = runs[column] if column in runs else pd.Series("-", index=runs.index)
    words = words.where(words.notna(), "-").astype(str)
    return [(str(word), runs[words == word]) for word in dict.fromkeys(words)]


def where_diverged(runs: pd.DataFrame) -> str:
    """At which steps and layers, as far as it is known: `at step 3-5, layer 6`."""
    places = [
        f"{name} {_range(runs[f'first_nonfinite_{name}'].dropna())}"
        for name in ("step", "layer")
        if f"first_nonfinite_{name}" in runs and runs[f"first_nonfinite_{name}"].notna().any()
    ]
    return f"at {', '.join(places)}" if places else ""


def where_saturated(runs: pd.DataFrame) -> str:
    """How much of a layer is saturated, where that is nearly all: `at 95% saturation`."""
    most = runs["saturation_init"].max() if "saturation_init" in runs else math.nan
    return f"at {most:.0%} saturation" if most > SATURATED else ""


REASONS = {("diverged", "state"): where_diverged, ("healthy", "verdict_init"): where_saturated}
"""What is said beside the word of a column."""


def _range(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low}-{high}"


def shown_mean(mean: Mean, metric: Metric, runs: int) -> str:
    """`0.936 ± 0.012`, of a geometric mean `0.84 ×÷ 1.04`; `(2)`: so many of the runs have it; `0`
    where all are zero.
    """
    if math.isnan(mean.value):
        return "0" if mean.zeros else "-"
    value = format(mean.value, metric.form)
    zeros = f", {mean.zeros} zero" if mean.zeros else ""
    few = f" ({mean.n}{zeros})" if mean.n < runs else ""
    if mean.n < 2:
        return f"{value}{few}"
    if metric.geometric:
        factor = _factor(mean)
        return f"{value} ×÷ {format(factor, '.2f' if factor < 10 else '.2g')}{few}"
    return f"{value} ± {format((mean.high - mean.low) / 2, metric.form)}{few}"


def _factor(mean: Mean) -> float:
    return math.sqrt(mean.high / mean.low) if mean.low > 0 else math.inf


def legend(table: Table, metrics: Sequence[Metric]) -> str:
    """What the columns are, and what the marks mean."""
    words = [*_verdict(table.bounds), OUTCOME]
    words += [f"{m.name}: {MEANINGS[m.name]}." for m in metrics if m.name in MEANINGS]
    methods = {row.means[m.name].method for row in table.rows for m in metrics} - {"none"}
    if methods:
        how = " or ".join(
            {"t": "Student's t", "bootstrap": "bootstrap from 10 runs on"}[name]
            for name in sorted(methods, reverse=True)
        )
        words.append(f"±: 95 % interval of the mean over runs ({how}).")
    if methods and any(metric.geometric for metric in metrics):
        words.append("×÷: the same of a geometric mean, as a factor.")
    if any(0 < row.means[m.name].n < len(row.runs) for row in table.rows for m in metrics):
        words.append("(n): over the n runs that have the number.")
    if any(row.best for row in table.rows):
        also = "; =: cannot be told from it (Welch, Holm, 5 %)" if methods else ""
        words.append(f"*: {table.metrics[0].best} {table.metrics[0].name}{also}.")
    left_out = [metric.name for metric in table.metrics[len(metrics) :]]
    words += [f"No room here for: {', '.join(left_out)}."] if left_out else []
    return " ".join(words)


def _verdict(bounds: Sequence[tuple[float, float]]) -> list[str]:
    """What the runs' own bounds make of a ratio; nothing where none is known."""
    if not bounds:
        return []
    low, high = (
        " or ".join(dict.fromkeys(map(_power, ends))) for ends in zip(*bounds, strict=True)
    )
    return [VERDICT.format(low=low, high=high)]


def _power(value: float) -> str:
    """`1e-2`, as it is typed."""
    return np.format_float_scientific(value, trim="-", exp_digits=1).replace("e+", "e")


def notes(table: Table) -> list[str]:
    """What varies together, what rows average over, how many are not shown, what is left out."""
    lines = [f"{name} varies together with {', '.join(keys)}" for name, keys in table.same.items()]
    if table.averaged:
        lines.append(f"averaged over {', '.join(table.averaged)}")
    if table.cut:
        lines.append(f"{table.cut} rows more without top=")
    lines += [f"left out: {why}" for why in table.left_out]
    return lines
