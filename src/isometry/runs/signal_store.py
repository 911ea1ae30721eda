"""`signals.parquet/`: one row per (step, layer), in parts that are each written whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isometry.columns import MEASURED, OVER_TIME
from isometry.runs.files import write_whole

SCHEMA = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("layer", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        *[pa.field(column, pa.float64()) for column in MEASURED],
    ]
)

TIME_SCHEMA = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("layer", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("gate", pa.string(), nullable=False),
        pa.field("time", pa.int32(), nullable=False),
        *[pa.field(column, pa.float64()) for column in OVER_TIME],
    ]
)


class SignalStore:
    """Appends tables of `SCHEMA` and reads them back.

    Args:
        folder: `signals.parquet/` of a run.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def over_time(self) -> SignalStore:
        """The store of the recurrent layers' rows, beside this one."""
        return SignalStore(self.folder.with_name("signals_over_time.parquet"))

    def append(self, table: pa.Table) -> None:
        """Write one part; its name carries its first step, so that the parts sort."""
        if table.num_rows == 0:
            return
        self._write(self.folder / f"part-{table['step'][0].as_py():010d}.parquet", table)

    def drop_from(self, step: int) -> None:
        """Forget every row at or after `step`: a resume from a checkpoint at `step` measures them
        again.
        """
        for part in [*self.parts(), *self.over_time.parts()]:
            table = pq.read_table(part)
            kept = table.filter(pc.field("step") < step)
            if kept.num_rows == 0:
                part.unlink()
            elif kept.num_rows < table.num_rows:
                self._write(part, kept)

    def parts(self) -> list[Path]:
        """The parts in order of their first step."""
        return sorted(self.folder.glob("part-*.parquet")) if self.folder.is_dir() else []

    @staticmethod
    def _write(path: Path, table: pa.Table) -> None:
        write_whole(path, lambda temporary: pq.write_table(table, temporary))


def read_signals(folder: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """All rows of a run by step and layer. Where a column was not measured the value is NaN (null
    in the file).
    """
    parts = SignalStore(folder).parts()
    if not parts:
        return pd.DataFrame(SCHEMA.empty_table().to_pandas())
    wanted = None if columns is None else ["step", "layer", *columns]
    return _read(parts, wanted).sort_values(["step", "layer"], ignore_index=True)


def read_over_time(folder: Path) -> pd.DataFrame:
    """The rows of the recurrent layers, by step, layer, gate and time."""
    parts = SignalStore(folder).over_time.parts()
    return _read(parts, None) if parts else pd.DataFrame(TIME_SCHEMA.empty_table().to_pandas())


def _read(parts: Sequence[Path], columns: Sequence[str] | None) -> pd.DataFrame:
    tables = [pq.read_table(part, columns=columns) for part in parts]
    return pd.DataFrame(pa.concat_tables(tables).to_pandas())
