"""A Lightning logger for `metrics.csv`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from isometry.runs.metrics import MetricsFile


class MetricsLogger(Logger):
    """Writes the run's scalars; per-layer values are in `signals.parquet` and stay out of it."""

    per_layer = False

    def __init__(self, file: MetricsFile):
        super().__init__()
        self.file = file

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.file.log(
            step or 0,
            {key: value for key, value in metrics.items() if key != "epoch"} | _epoch(metrics),
        )

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The config is in `config.yaml`."""

    @rank_zero_only
    def save(self) -> None:
        self.file.flush()


def _epoch(metrics: Mapping[str, float]) -> dict[str, int]:
    return {"epoch": int(metrics["epoch"])} if "epoch" in metrics else {}
