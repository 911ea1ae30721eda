"""A figure as one W&B run of the group `figures`: the picture, the data as a table, the claims."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Any

import pandas as pd
import wandb

from isometry.runs.directory import RunDirectory
from isometry.training.loggers.wandb import MAX_ID, make_wandb

COLUMNS = ("id", "statement", "expected", "measured", "result")
ROWS = 10_000
"""Rows of the data table that W&B is sent at most; data.parquet has all."""


def send(
    target: Path, config: dict[str, Any], data: pd.DataFrame, claims: list[dict[str, Any]]
) -> None:
    """Log one figure; what goes wrong with W&B is a warning."""
    options = {key: value for key, value in config["logger"].items() if key != "names"}
    attempt = 1 + len(list(target.glob("wandb/*run-*")))
    logger = make_wandb(
        RunDirectory(target), attempt, {**config, "tags": [config["figure"]["id"]]}, **options
    )
    logger._wandb_init |= {
        "group": "figures",
        "job_type": "figure",
        "name": f"{config['figure']['id']} {config['preset']}",
    }
    # two machines, two runs
    place = hashlib.sha256(f"{platform.node()}:{target.resolve()}".encode()).hexdigest()[:8]
    logger._wandb_init["id"] = f"figure-{config['figure']['id']}-{target.name}-{place}-{attempt}"[
        -MAX_ID:
    ]
    logger.begin()
    rows: list[Any] = [[entry[name] for name in COLUMNS] for entry in claims]
    logger.guarded(
        lambda: logger.experiment.log(
            {
                "figure": wandb.Image(str(target / "figure.png")),
                "claims": wandb.Table(columns=list(COLUMNS), data=rows),
                "data": wandb.Table(dataframe=data.head(ROWS)),
            }
        )
    )
    passed = sum(entry["result"] == "pass" for entry in claims)
    logger.finish({"claims_made": len(claims), "claims_passed": passed}, failed=False)
