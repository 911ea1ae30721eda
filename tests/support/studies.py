"""Studies as a sweep leaves them, written without training."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from isometry.runs.directory import RunDirectory
from isometry.runs.identity import run_id
from isometry.runs.order import note_order
from isometry.runs.signal_store import SCHEMA, SignalStore

CONFIG: dict[str, Any] = {
    "model": {"_target_": "isometry.networks.mlp.MLP", "name": "mlp", "depth": 4, "width": 8},
    "activation": {"_target_": "isometry.activations.tanh", "name": "tanh"},
    "initializer": {"name": "gaussian", "sigma_w": 1.0, "sigma_b": 0.0},
    "normalization": {"kind": "none"},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "trainer": {"devices": 1, "max_epochs": 3},
    "data": {"source": "mnist_5k"},
    "verdict": {"vanishing_below": 1e-2, "exploding_above": 1e2},
    "paths": {"runs": "runs"},
    "study_name": "s",
    "seed": 0,
}
"""What matters here of a resolved config."""

Measure = Callable[[Mapping[str, Any]], tuple[dict[str, Any], pd.DataFrame | None]]


def with_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """`CONFIG` with some dotted keys set; `None` takes a key out."""
    config = copy.deepcopy(CONFIG)
    for key, value in values.items():
        *parents, last = key.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
        if value is None:
            del node[last]
    return config


def write_run(study: Path, values: Mapping[str, Any], measure: Measure) -> RunDirectory:
    """A run that is over."""
    config = with_values(values)
    run = RunDirectory(study / run_id(config))
    run.begin(json.dumps(config))
    summary, signals = measure(values)
    state = summary.get("state", "finished")
    run.end(state)
    run.write_summary({"state": state, "seed": config["seed"], **summary})
    if signals is not None:
        SignalStore(run.signals).append(pa.Table.from_pandas(signals, SCHEMA, preserve_index=False))
    return run


def write_study(
    study: Path, grid: Mapping[str, Sequence[Any]], measure: Measure
) -> list[RunDirectory]:
    """A grid of runs, started in another order than the sweep names them."""
    jobs = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    note_order(study, [run_id(with_values(job)) for job in jobs])
    runs = [write_run(study, job, measure) for job in reversed(jobs)]
    return runs[::-1]


def signals_of(
    steps: Sequence[int], depth: int, backprop: Callable[[int, int], float], **columns: float
) -> pd.DataFrame:
    """Rows of a signal store: `backprop(step, layer)`, other columns constant, the rest null."""
    rows = []
    for step in steps:
        for layer in range(1, depth + 1):
            kind = "hidden" if layer < depth else "readout"
            row = dict.fromkeys(SCHEMA.names, np.nan)
            row |= {"step": step, "layer": layer, "name": f"l{layer}", "kind": kind}
            row |= {"nonfinite": 0.0, **columns, "backprop_norm": backprop(step, layer)}
            rows.append(row)
    return pd.DataFrame(rows)
