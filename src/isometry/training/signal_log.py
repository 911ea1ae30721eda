"""What the signals of one training become: rows in a file or in memory, pictures, an alarm, the
first non-finite number.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from lightning.pytorch.utilities import rank_zero_only

from isometry.columns import MEASURED
from isometry.errors import UserError
from isometry.layers.spec import LayerSpec
from isometry.runs.signal_store import (
    SCHEMA,
    TIME_SCHEMA,
    SignalStore,
    read_over_time,
    read_signals,
)
from isometry.signals.flush import Divergence, Flush
from isometry.training.alarm import GradientAlarm
from isometry.training.signal_options import SignalOptions

if TYPE_CHECKING:  # half a second, which a training does not need
    from matplotlib.figure import Figure


class SignalLog:
    """Takes what a recorder flushes.

    Args:
        options: of the alarm.
        store: where the rows go; None: they stay in memory.

    Attributes:
        alarm_step: the first step at which the alarm went off, None while it has not.
        divergence: the first non-finite number, None while all are finite; what comes after it is
            not kept.
    """

    def __init__(self, options: SignalOptions, store: SignalStore | None = None):
        self.store = store
        self.alarm = make_alarm(options)
        self.alarm_step: int | None = None
        self.divergence: Divergence | None = None
        self._tables: list[pa.Table] = []  # what no file holds
        self._over_time: list[pa.Table] = []

    def begin(self, folder: str | Path | None, step: int) -> None:
        """Training begins at a step, 0 unless it goes on; rows go to `folder/signals.parquet`
        unless they have a store already.

        Raises:
            UserError: where the folder holds the rows of another training.
        """
        if self.store is not None or folder is None:
            return
        self.store = SignalStore(Path(folder) / "signals.parquet")
        if step == 0 and self.store.parts():
            raise UserError(
                f"isometry: {self.store.folder} holds the rows of another training; give another "
                "folder, or remove it"
            )
        if _is_first():
            self.store.drop_from(step)

    def take(self, flush: Flush, layers: Sequence[LayerSpec]) -> bool:
        """Keep rows and sound the alarm; False behind a divergence, where nothing is kept."""
        if self.divergence is not None:
            return False
        self.divergence = flush.divergence
        self._sound_alarm(flush)
        table = to_table(flush, layers)
        over_time = to_time_table(flush)
        if self.store is None:
            self._tables.append(table)
            self._over_time.append(over_time)
        elif _is_first():
            self.store.append(table)
            self.store.over_time.append(over_time)
        return True

    def _sound_alarm(self, flush: Flush) -> None:
        steps = [] if self.alarm is None else self.alarm.see(flush.first_step, flush.gradient_norms)
        if steps and self.alarm_step is None:
            self.alarm_step = steps[0]
        if self.alarm is not None and steps and _is_first():
            warnings.warn(
                f"the gradient norm was over {self.alarm.factor:g} times its running median for "
                f"{self.alarm.steps} steps on end up to step {steps[0]}: an explosion often "
                "follows; a smaller optimizer.lr or trainer.gradient_clip_val helps",
                stacklevel=2,
            )

    def frame(self) -> pd.DataFrame:
        """All rows, one for each (step, layer). A value that was not measured is NaN."""
        if self.store is not None:
            return read_signals(self.store.folder)
        tables = self._tables or [SCHEMA.empty_table()]
        return pd.DataFrame(pa.concat_tables(tables).to_pandas())

    def frame_over_time(self) -> pd.DataFrame:
        """The rows of the recurrent layers, one for each (step, layer, gate, time)."""
        if self.store is not None:
            return read_over_time(self.store.folder)
        tables = self._over_time or [TIME_SCHEMA.empty_table()]
        return pd.DataFrame(pa.concat_tables(tables).to_pandas())

    def plot(self) -> tuple[Figure, Figure]:
        """Profiles against depth at a few of the recorded steps, and backprop_norm over layer and
        step.
        """
        from isometry.plots.profiles import draw_heatmap, draw_profiles

        frame = self.frame()
        if frame.empty:
            raise UserError("plot: nothing is recorded yet")
        return draw_profiles(frame, ""), draw_heatmap(frame, "")

    def state_dict(self) -> dict[str, Any]:
        if self.alarm is None:
            return {}
        return {"alarm": self.alarm.state_dict(), "alarm_step": self.alarm_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.alarm is not None and "alarm" in state:
            self.alarm.load_state_dict(state["alarm"])
            self.alarm_step = state.get("alarm_step")


def _is_first() -> bool:
    """Whether this process writes and warns."""
    return getattr(rank_zero_only, "rank", 0) == 0


def make_alarm(options: SignalOptions) -> GradientAlarm | None:
    """The alarm that the options ask for."""
    steps = options.alarm_steps
    return None if steps is None else GradientAlarm(options.alarm_factor, steps)


def to_table(flush: Flush, layers: Sequence[LayerSpec]) -> pa.Table:
    """The rows of a flush, one for each (step, layer); what was not measured is null."""
    steps = flush.steps
    count = len(layers)
    columns = {
        "step": pa.array(np.repeat(steps, count), pa.int64()),
        "layer": pa.array(np.tile([spec.index for spec in layers], len(steps)), pa.int32()),
        "name": pa.array([spec.name for spec in layers] * len(steps), pa.string()),
        "kind": pa.array([spec.kind for spec in layers] * len(steps), pa.string()),
    }
    for index, column in enumerate(MEASURED):
        values = flush.values[:, index].ravel()
        measured = flush.measured[:, index].ravel()
        columns[column] = pa.array(values, pa.float64(), mask=~measured)
    table = pa.table(columns, schema=SCHEMA)
    for name, values in flush.own.items():
        every = np.full((len(steps), count), np.nan)  # a divergence cuts steps off; the last row
        kept = values[: len(steps)]  # of a training has no batch
        every[: len(kept)] = kept
        table = table.append_column(name, pa.array(every.ravel(), from_pandas=True))
    return table


def to_time_table(flush: Flush) -> pa.Table:
    """The rows of the recurrent layers, one for each (step, layer, gate, time)."""
    tables = [TIME_SCHEMA.empty_table()]
    for rows in flush.over_time:
        count = rows.values.shape[1]
        keys = [[each] * count for each in (rows.step, rows.layer, rows.name, rows.gate)]
        columns = [*keys, range(count), *(pa.array(v, from_pandas=True) for v in rows.values)]
        arrays = [pa.array(c, field.type) for c, field in zip(columns, TIME_SCHEMA, strict=True)]
        tables.append(pa.table(arrays, schema=TIME_SCHEMA))
    return pa.concat_tables(tables)
