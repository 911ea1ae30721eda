"""Lines over seeds: the mean, and its 95 % interval as a band."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from scipy import stats

from isometry.plots.style import look


def seed_lines(
    axis: Axes, data: pd.DataFrame, x: str, y: str, by: str, log: bool = False, **kwargs: Any
) -> None:
    """One line for each value of `by`: the mean over seeds at each x, and Student's 95 % interval
    of it.

    Args:
        axis: where to draw.
        data: columns `seed`, x, y and `by`.
        log: take means of logarithms (the geometric mean), and a logarithmic axis.
        kwargs: of the lines.
    """
    for index, (label, rows) in enumerate(data.groupby(by, sort=False)):
        band = interval(rows, x, y, log)
        style = {**look(index), **kwargs}
        axis.plot(band.index, band["mean"], label=str(label), **style)
        axis.fill_between(
            band.index, band["low"], band["high"], color=style["color"], alpha=0.2, linewidth=0
        )
    if log:
        axis.set_yscale("log")


def interval(rows: pd.DataFrame, x: str | list[str], y: str, log: bool = False) -> pd.DataFrame:
    """`mean`, `low` and `high` at each x (or each combination of several columns); without a band
    where there is one seed.
    """
    measured = np.log(rows[y].where(rows[y] > 0)) if log else rows[y]
    keys = [x] if isinstance(x, str) else x
    values = rows[keys].assign(value=measured).groupby(x)["value"]
    mean = values.mean()
    count = values.count()
    half: pd.Series = (values.sem() * stats.t.ppf(0.975, count.clip(lower=2) - 1)).where(
        count > 1, 0.0
    )
    found = pd.DataFrame({"mean": mean, "low": mean - half, "high": mean + half})
    return pd.DataFrame(np.exp(found)) if log else found


def integer_axis(axis: Axes, words: str) -> None:
    """An x-axis that counts something."""
    axis.set_xlabel(words)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
