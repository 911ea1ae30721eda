"""What of a run is compared: a number of its summary, or of its signals.

`test_accuracy` stands in `summary.json`; `displacement.layer_1` is the last value of a column in a
layer; `update_ratio.largest` is over all layers and steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from isometry.columns import MEASURED, SUMMARY_NUMBERS
from isometry.errors import bad_value, nearest

Direction = Literal["highest", "lowest", "nearest to 1"]

BEST: dict[str, Direction] = {
    "test_accuracy": "highest",
    "val_accuracy": "highest",
    "train_loss": "lowest",
    "gradient_rate_init": "nearest to 1",
    "gradient_rate_final": "nearest to 1",
    "gradient_rate_predicted": "nearest to 1",
    "gradient_ratio_init": "nearest to 1",
    "gradient_rate_time_init": "nearest to 1",
    "gradient_ratio_time_init": "nearest to 1",
    "wall_seconds": "lowest",
    "images_per_second": "highest",
}
"""Of what has a best value, which that is."""

USUAL = (
    *("test_accuracy", "gradient_rate_init", "gradient_ratio_init", "displacement.layer_1"),
    *("update_ratio.largest", "saturation_init"),
)
"""What is shown where nothing else is asked for."""

OF_TIME = "gradient_ratio_time_init"
"""By which a recurrence's verdict is found, too."""


def usual(summaries: Iterable[Mapping[str, Any]]) -> list[str]:
    """`USUAL`, and of recurrences the ratio over time."""
    recurrent = any(summary.get(OF_TIME) is not None for summary in summaries)
    place = USUAL.index("gradient_ratio_init") + 1
    return [*USUAL[:place], *([OF_TIME] if recurrent else []), *USUAL[place:]]


ADDED = ("preactivation_mean", "activation_mean", "saturation", "dead", "nonfinite")
"""Columns that have a mean; of all the others, norms and variances over decades, the logarithm
has.
"""
WORD = re.compile(r"(?P<column>\w+)\.(?:layer_(?P<layer>\d+)|(?P<largest>largest))")


@dataclass(frozen=True)
class Metric:
    """A number of each run.

    Attributes:
        name: as it is asked for.
        column: of the signals; None: a key of the summary.
        layer: whose last value it is; None: the largest over layers and steps.
    """

    name: str
    column: str | None = None
    layer: int | None = None

    @property
    def geometric(self) -> bool:
        """Whether means are of logarithms: it is positive, and covers decades."""
        if self.column is not None:
            return self.column not in ADDED
        return self.name in POSITIVE

    @property
    def form(self) -> str:
        """How its numbers are written."""
        found = next((form for part, form in FORMS if part in self.name), None)
        return found or (".3g" if self.column is None else ".2e")

    @property
    def best(self) -> Direction | None:
        return BEST.get(self.name)

    def of(self, summary: Mapping[str, Any], signals: pd.DataFrame) -> float:
        """The number of one run, NaN where it has none: the last value is that of a run that has
        finished.

        Args:
            summary: content of `summary.json`.
            signals: rows of its signals, by step and layer.
        """
        if self.column is None:
            value = summary.get(self.name)
            return float(value) if isinstance(value, int | float) else float("nan")
        if self.layer is not None and summary.get("state") not in ("finished", None):
            return float("nan")
        rows = signals if self.layer is None else signals[signals["layer"] == self.layer]
        values = rows[self.column].dropna() if self.column in rows else rows["step"][:0]
        if values.empty:
            return float("nan")
        return float(values.max() if self.layer is None else values.iloc[-1])


FORMS = (
    *(("accuracy", ".3f"), ("loss", ".3f"), ("gradient_rate", ".3f"), ("_ratio", ".1e")),
    *(("displacement", ".1e"), ("saturation", ".0%"), ("dead", ".0%"), ("share", ".0%")),
    *(("seconds", ".1f"), ("per_second", ".0f"), ("step", ".0f"), ("lambda", ".3g")),
)
POSITIVE = (
    *("gradient_rate_init", "gradient_rate_final", "gradient_rate_predicted"),
    *("gradient_rate_time_init", "gradient_ratio_time_init"),
    *("gradient_ratio_init", "displacement_layer_1", "update_ratio_largest", "lambda_max"),
)
"""Keys of the summary that are positive and cover decades."""


def metric(word: str) -> Metric:
    """The metric of a word.

    Raises:
        UserError: for a word that is none.
    """
    match = WORD.fullmatch(word)
    if match is None:
        if word not in SUMMARY_NUMBERS:
            raise _unknown(word)
        return Metric(word)
    if match["column"] not in MEASURED:
        raise _unknown(word)
    return Metric(word, match["column"], int(match["layer"]) if match["layer"] else None)


def _unknown(word: str) -> Exception:
    known = [*SUMMARY_NUMBERS, *MEASURED]
    suggestion = nearest(word.partition(".")[0], known)
    allowed = (
        f"no such number{suggestion}; allowed are {', '.join(SUMMARY_NUMBERS)}, and "
        "COLUMN.layer_1 (its last value) or COLUMN.largest for a column of signals.parquet"
    )
    return bad_value("metric", word, allowed)


def columns_of(metrics: Sequence[Metric]) -> list[str]:
    """The columns of the signals that metrics read."""
    return list(dict.fromkeys(m.column for m in metrics if m.column is not None))


def to_rank(metric: Metric, values: pd.Series) -> pd.Series:
    """The values so that more is better (or just more, where no value is the best); a missing one
    stays missing.
    """
    if metric.best == "lowest":
        return -values
    if metric.best == "nearest to 1":
        with np.errstate(divide="ignore"):
            return -np.log(values.where((values > 0) | values.isna(), 0.0)).abs()
    return values
