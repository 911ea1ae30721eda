"""From the `logger` group to Lightning loggers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers import Logger

from isometry.errors import bad_value
from isometry.loggers.csv import MetricsLogger
from isometry.runs.directory import RunDirectory
from isometry.runs.metrics import MetricsFile

NAMES = ("csv", "wandb")


def build_loggers(
    run: RunDirectory,
    attempt: int,
    config: Mapping[str, Any],
    names: Sequence[str],
    project: str,
    entity: str | None,
    offline: bool,
) -> list[Logger]:
    """The loggers of a run.

    Args:
        run: its directory.
        attempt: its number, part of the W&B id.
        config: the resolved config, for W&B's table.
        names: a selection of `NAMES`.
        project, entity, offline: of W&B.
    """
    for name in names:
        if name not in NAMES:
            raise bad_value("logger.names", name, f"allowed are {', '.join(NAMES)}")
    loggers: list[Logger] = []
    if "csv" in names:
        loggers.append(MetricsLogger(MetricsFile(run.metrics)))
    if "wandb" in names:
        from isometry.loggers.wandb import make_wandb  # a second of import for those who log there

        loggers.append(make_wandb(run, attempt, config, project, entity, offline))
    return loggers
