"""A comparison, from words to everything that is shown of it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from isometry.compare.collect import Collection
from isometry.compare.explain import Explanation, explain
from isometry.compare.metrics import Metric, columns_of
from isometry.compare.table import Choices, Table, tabulate
from isometry.errors import Damaged
from isometry.runs.signal_store import read_signals
from isometry.runs.table import Record

DRAWN = ("kind", "backprop_norm", "activation_var", "saturation", "displacement", "nonfinite")
"""Columns of the signals that pictures and pages show."""


@dataclass(frozen=True)
class Comparison:
    """Some runs, side by side.

    Attributes:
        title: what is compared, in words.
        table: one row a configuration.
        explanation: of the first metric.
        signals: run id to its signals.
    """

    title: str
    table: Table
    explanation: Explanation
    signals: dict[str, pd.DataFrame]

    def hidden(self) -> pd.DataFrame:
        """The signals of all hidden layers, by run, step and layer; `row` is the number of the
        run's configuration, `state` how the run ended.
        """
        names = ("row", "run_id", "state", "step", "layer", *DRAWN)
        frames = [pd.DataFrame({name: [] for name in names})]
        for number, row in enumerate(self.table.rows):
            for run_id, state in row.runs[["run_id", "state"]].itertuples(index=False):
                if run_id in self.signals:
                    rows = self.signals[run_id]
                    frames.append(rows.assign(row=number, run_id=run_id, state=state))
        whole = pd.concat(frames, ignore_index=True)
        return whole[whole["kind"] == "hidden"]


def compare(
    found: Collection, metrics: Sequence[Metric], choices: Choices, title: str
) -> Comparison:
    """Read the signals of the runs, and put them side by side.

    Args:
        found: the runs.
        metrics: what is compared; the first is judged.
        choices: which runs and rows.
        title: of the comparison.

    Raises:
        UserError: for a choice that the runs do not have.
    """
    signals, damages = read_all(found.records, [*DRAWN, *columns_of(metrics)])
    with_damages = Collection(found.records, found.factors, [*found.left_out, *damages])
    table = tabulate(with_damages, signals, metrics, choices)
    return Comparison(title, table, explain(table), signals)


def read_all(
    records: Sequence[Record], columns: Sequence[str]
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Signals by run id, and why those that cannot be read are missing."""
    wanted = list(dict.fromkeys(columns))
    with ThreadPoolExecutor() as threads:
        found = list(threads.map(lambda record: _signals(record.run.signals, wanted), records))
    pairs = zip(records, found, strict=True)
    signals = {record.run.run_id: rows for record, rows in pairs if isinstance(rows, pd.DataFrame)}
    return signals, [words for words in found if isinstance(words, str)]


def _signals(folder: Path, columns: Sequence[str]) -> pd.DataFrame | str:
    try:
        return read_signals(folder, columns)
    except Damaged as damage:
        return str(damage)
