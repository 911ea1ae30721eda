"""The run table: one row a run of a study, from what lies in the run directories."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from isometry.errors import Damaged
from isometry.runs.directory import LOADER, RunDirectory

CHOICES = {
    "model": "model.name",
    "depth": "model.depth",
    "activation": "activation.name",
    "initializer": "initializer.name",
    "normalization": "normalization.kind",
    "data": "data.source",
    "optimizer": "optimizer.name",
    "lr": "optimizer.lr",
}
"""Columns of the run table that come from a run's config, and the keys they come from."""


def runs_of(study: Path) -> list[RunDirectory]:
    """The run directories of a study, in the order in which they started."""
    found = [RunDirectory(path.parent) for path in study.glob("*/status.json")]
    return sorted(found, key=lambda run: (_start(run), run.run_id))


def _start(run: RunDirectory) -> str:
    try:
        return (run.status() or {}).get("start") or ""
    except Damaged:
        return ""


def run_table(study: Path) -> pd.DataFrame:
    """One row a run: its choices, its state and its summary; columns that a run lacks are missing
    values.
    """
    return pd.DataFrame([_row(run) for run in runs_of(study)])


def _row(run: RunDirectory) -> dict[str, Any]:
    """Of a run whose files are damaged, what is wrong: one bad run never hides the others."""
    try:
        return _whole_row(run)
    except Damaged as damage:
        known = {"run_id": run.run_id, "path": str(run.path)}
        return {**known, "state": "damaged", "reason": str(damage)}


def _whole_row(run: RunDirectory) -> dict[str, Any]:
    config = _config(run)
    choices = {column: _shown(lookup(config, key)) for column, key in CHOICES.items()}
    status = run.status() or {}
    return {
        "run_id": run.run_id,
        **choices,
        **(run.summary() or {}),
        "state": status.get("state"),
        "path": str(run.path),
    }


def _config(run: RunDirectory) -> dict[str, Any]:
    try:
        config = yaml.load(run.config_text() or "", Loader=LOADER)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        words = str(error).splitlines()[0]
        raise Damaged(f"{run.config}: is no YAML ({words})") from error
    if not isinstance(config, dict):
        raise Damaged(f"{run.config}: is missing, or is not the config of a run")
    return config


def _shown(value: Any) -> Any:
    """A choice as a cell; of one that is built, what builds it."""
    return value.get("_target_") if isinstance(value, Mapping) else value


def lookup(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, None where there is none."""
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node
