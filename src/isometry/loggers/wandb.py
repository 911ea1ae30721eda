"""Weights & Biases: one W&B run per attempt, grouped by study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import Logger, WandbLogger

from isometry.runs.directory import RunDirectory

MAX_ID = 128


def make_wandb(
    run: RunDirectory, attempt: int, config: Mapping[str, Any], project: str, entity: str | None, offline: bool
) -> WandbLogger:
    """A logger whose W&B run carries study, run id and attempt in its id, and the study as its group."""
    logger = WandbLogger(
        name=run.run_id,
        id=f"{run.study}-{run.run_id}-{attempt}"[-MAX_ID:],
        project=project,
        entity=entity,
        group=run.study,
        job_type="train",
        tags=list(config.get("tags") or []),
        config=dict(config),
        save_dir=run.path,
        offline=offline,
        settings=wandb.Settings(silent=True, console="off"),
    )
    logger._wandb_init.pop("anonymous", None)  # Lightning still passes it; W&B prints a warning for it
    return logger


def finish(loggers: Sequence[Logger], summary: Mapping[str, Any], failed: bool) -> None:
    """Write the summary keys and close; a run that failed is shown as crashed."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update({key: value for key, value in summary.items() if value is not None})
            wandb.finish(exit_code=1 if failed else 0)


def offline_runs(run: RunDirectory) -> list[Path]:
    """W&B's offline directories of a run, oldest first."""
    return sorted(run.path.glob("wandb/offline-run-*"))
