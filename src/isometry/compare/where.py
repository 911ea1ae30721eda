"""Which runs: an expression over every key of their configs and every number of their summaries."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from isometry.compare.factors import ABSENT, rank, shown
from isometry.errors import bad_value
from isometry.runs.table import Record


def chosen(runs: pd.DataFrame, records: Sequence[Record], where: str) -> pd.DataFrame:
    """The runs for which an expression holds.

    Args:
        runs: one row a run: factors, state, summary.
        records: of the same runs; their configs' keys can be asked for, too.
        where: the expression.

    Raises:
        UserError: for one that is none, or holds for none.
    """
    configs = pd.DataFrame([dict(record.config) for record in records])
    keys = sorted((str(key) for key in configs), key=rank)
    options = configs[keys].rename(columns=shown)  # `activation` for `activation.name`
    known = pd.concat([runs, options, configs], axis=1)
    known = known.loc[:, ~known.columns.duplicated()].apply(_as_typed)
    try:
        holds = known.eval(_quoted(where, known.columns), engine="python")  # type: ignore[call-overload]
        holds = np.asarray(holds, dtype=object)
    except Exception as error:  # pandas raises what Python's parser and its operators raise
        words = str(error).splitlines()[0]
        example = "e.g. where=\"activation == 'relu' and model.depth >= 20\""
        raise bad_value("where", where, f"cannot be understood ({words}); {example}") from error
    if holds.shape != (len(runs),) or not all(isinstance(each, bool) for each in holds):
        raise bad_value("where", where, "is no condition, which is true or false for each run")
    if not any(holds):
        raise bad_value("where", where, f"holds for none of the {len(runs)} runs")
    return runs[holds.astype(bool)]


def _as_typed(column: pd.Series) -> pd.Series:
    """A column of numbers that some runs do not have, so that it can be compared; true and false as
    what they are.
    """
    words = column.astype(str)
    if words.isin(["true", "false", "True", "False"]).all():
        return words.str.lower() == "true"
    numbers = pd.to_numeric(column.replace(ABSENT, np.nan), errors="coerce")
    present = column.notna() & (column.astype(str) != ABSENT)
    return numbers if numbers[present].notna().all() and present.any() else column


def _quoted(where: str, columns: Iterable[str]) -> str:
    """pandas wants `model.depth` in backticks."""
    names = sorted((name for name in columns if "." in name), key=len, reverse=True)
    if not names:
        return where
    pattern = "|".join(re.escape(name) for name in names)
    return re.sub(rf"(?<![\w.`])({pattern})(?![\w.`])", r"`\1`", where)
