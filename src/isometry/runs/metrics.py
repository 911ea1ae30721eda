"""`metrics.csv`: one row per logged step, one column per scalar; rewritten whole at each flush."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from isometry.errors import Damaged
from isometry.runs.files import read_text, write_text


class MetricsFile:
    """The scalars of a run. Values logged at the same step share a row; a value not logged there is
    empty.

    Args:
        path: `metrics.csv` of a run; what it holds already is kept.

    Raises:
        Damaged: where it holds something else.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows: dict[int, dict[str, float | str]] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        text = io.StringIO(read_text(self.path) or "", newline="")
        table = csv.DictReader(text, strict=True)
        try:
            if "step" not in (table.fieldnames or ["step"]):
                raise KeyError("step")
            for row in table:
                step = int(row.pop("step"))
                self.rows[step] = {key: value for key, value in row.items() if value != ""}
                list(map(float, self.rows[step].values()))
        except (csv.Error, KeyError, ValueError, TypeError, AttributeError) as error:
            raise Damaged(f"{self.path}: is no table of numbers by step ({error})") from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add values to the row of `step`."""
        self.rows.setdefault(step, {}).update(values)

    def drop_from(self, step: int) -> None:
        """Forget every row after `step`; the row of `step` itself was logged before the checkpoint
        of that step.
        """
        self.rows = {key: row for key, row in self.rows.items() if key <= step}

    def flush(self) -> None:
        """Write the file whole."""
        names = sorted({name for row in self.rows.values() for name in row})
        text = io.StringIO()
        writer = csv.DictWriter(text, ["step", *names], lineterminator="\n")
        writer.writeheader()
        for step in sorted(self.rows):
            writer.writerow({"step": step, **self.rows[step]})
        write_text(self.path, text.getvalue())
