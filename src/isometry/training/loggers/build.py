"""From the `logger` group to Lightning loggers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from isometry.errors import bad_value
from isometry.runs.directory import RunDirectory
from isometry.runs.lock import LockLost
from isometry.runs.metrics import MetricsFile
from isometry.training.loggers.csv import MetricsLogger

NAMES = ("csv", "wandb", "tensorboard")


def build_loggers(
    run: RunDirectory,
    attempt: int,
    config: Mapping[str, Any],
    names: Sequence[str],
    project: str,
    entity: str | None,
    offline: bool,
    patience: float,
) -> list[Logger]:
    """The loggers of a run.

    Args:
        run: its directory.
        attempt: its number, part of the W&B id.
        config: the resolved config, for W&B's table.
        names: a selection of `NAMES`.
        project, entity, offline, patience: of W&B.
    """
    for name in names:
        if name not in NAMES:
            raise bad_value("logger.names", name, f"allowed are {', '.join(NAMES)}")
    loggers: list[Logger] = []
    if "csv" in names:
        loggers.append(MetricsLogger(MetricsFile(run.metrics)))
    if "wandb" in names:
        # a second of import for those who log there
        from isometry.training.loggers.wandb import (
            make_wandb,
        )

        try:
            loggers.append(make_wandb(run, attempt, config, project, entity, offline, patience))
        except Exception as error:  # its settings come from the environment, too
            first = (str(error).strip().splitlines() or ["no reason given"])[0]
            words = f"W&B: {type(error).__name__}: {first}. The run goes on without it"
            warnings.warn(words, stacklevel=2)
    if "tensorboard" in names:
        loggers.append(make_tensorboard(run))
    return loggers


def make_tensorboard(run: RunDirectory) -> Logger:
    """Event files in the run directory: `tensorboard --logdir runs`.

    Raises:
        UserError: where the package tensorboard is not installed.
    """
    try:
        return TensorBoardLogger(
            save_dir=run.path, name="tensorboard", version="", default_hp_metric=False
        )
    except ModuleNotFoundError as error:
        raise bad_value(
            "logger.names", "tensorboard", "needs the package: pip install tensorboard"
        ) from error


def start_loggers(loggers: Sequence[Logger]) -> None:
    """Begin what has to be begun once the run's folder is there."""
    for logger in loggers:
        if hasattr(logger, "begin"):
            logger.begin()


def close_loggers(loggers: Sequence[Logger], summary: Mapping[str, Any], failed: bool) -> None:
    """Finish every logger; W&B gets the summary, and a run that failed is shown there as
    crashed.
    """
    for logger in loggers:
        with suppress(LockLost):  # which the run's status has met before
            logger.save()
        logger.finalize("failed" if failed else "success")
    if any(isinstance(logger, WandbLogger) for logger in loggers):
        from isometry.training.loggers.wandb import finish

        finish(loggers, summary, failed)
