"""`signals.parquet/`: one row per (step, layer), in parts that are each written whole."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isometry.columns import MEASURED, OVER_TIME
from isometry.errors import Damaged
from isometry.runs.files import is_regular, write_whole

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


LARGE_PART = 4_000
"""Rows from which on a part is left alone: it takes ten milliseconds to write, and a run of a
million rows has 250.
"""


class SignalStore:
    """Appends tables of `SCHEMA` and reads them back.

    Args:
        folder: `signals.parquet/` of a run.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._growing: pa.Table | None = None  # content of the part that this process writes

    @functools.cached_property
    def over_time(self) -> SignalStore:
        """The store of the recurrent layers' rows, beside this one."""
        return SignalStore(self.folder.with_name("signals_over_time.parquet"))

    def append(self, table: pa.Table) -> None:
        """Add rows: to the last part as long as that is small, else as a part of their own, whose
        name carries its first step, so that the parts sort.

        A part is rewritten whole: a reader never sees rows twice, as it would where parts are
        merged behind their backs.
        """
        if table.num_rows == 0:
            return
        last = self._growing
        if last is None or last.schema != table.schema or last.num_rows >= LARGE_PART:
            last = table.schema.empty_table()
        self._growing = pa.concat_tables([last, table]).combine_chunks()
        first = self._growing["step"][0].as_py()
        self._write(self.folder / f"part-{first:010d}.parquet", self._growing)

    def drop_from(self, step: int) -> None:
        """Forget every row at or after `step`: a resume from a checkpoint at `step` measures them
        again.
        """
        self._growing = None
        self.over_time._growing = None
        for part in [*self.parts(), *self.over_time.parts()]:
            table = read_part(part)
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
        write_whole(
            path, lambda temporary: pq.write_table(table, temporary, write_page_checksum=True)
        )


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
    tables = [read_part(part, columns) for part in parts]
    return pd.DataFrame(pa.concat_tables(tables, promote_options="default").to_pandas())


def read_part(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of one part.

    Raises:
        Damaged: where it holds something else.
    """
    if not is_regular(path):
        raise Damaged(f"{path}: is a link, or no plain file")
    try:
        table = pq.read_table(path, columns=columns, page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
    expected = TIME_SCHEMA if path.parent.name.startswith("signals_over_time") else SCHEMA
    for field in table.schema:
        known = expected.field(field.name).type if field.name in expected.names else pa.float64()
        if field.type != known:
            raise Damaged(f"{path}: {field.name} is {field.type}, not {known}")
    if missing := set(expected.names if columns is None else columns) - set(table.column_names):
        raise Damaged(f"{path}: has no column {', '.join(sorted(missing))}")
    return table
