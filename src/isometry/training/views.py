"""`profile.png` and `heatmap.png` of a run, and the same views in Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from isometry.runs.directory import RunDirectory


def show_views(run: RunDirectory, rows: pd.DataFrame, loggers: Sequence[Any]) -> None:
    """Draw the pictures of what a run has recorded, and send them to the loggers."""
    draw_pictures(run, rows, run.prediction() or {})
    send_views(run, rows, loggers)


def draw_pictures(
    run: RunDirectory, rows: pd.DataFrame, prediction: Mapping[str, Any]
) -> list[str]:
    """Write both pictures into the run directory.

    Args:
        run: its directory.
        rows: all its signals.
        prediction: the content of `prediction.json`.

    Returns:
        their paths, none for a run without signals.
    """
    if rows.empty or rows["backprop_norm"].isna().all():
        return []
    from isometry.plots.profiles import draw_heatmap, draw_profiles
    from isometry.plots.style import save

    pictures = {
        "profile": draw_profiles(rows, run.run_id, prediction),
        "heatmap": draw_heatmap(rows, run.run_id),
    }
    return [str(save(figure, run.path / name)[0]) for name, figure in pictures.items()]


def send_views(run: RunDirectory, rows: pd.DataFrame, loggers: Sequence[Any]) -> None:
    """Profiles as line series and the heatmap as an image to every W&B logger: no panel of W&B's
    own shows layer x step.
    """
    wanted = [logger for logger in loggers if hasattr(logger, "log_views")]
    if not wanted or rows.empty:
        return
    import wandb

    for logger in wanted:
        views = {
            f"profile/{column}": wandb_profile(rows, column)
            for column in ("backprop_norm", "weight_grad_norm")
        }
        views["signals/backprop_norm"] = wandb_table(rows)
        if (run.path / "heatmap.png").exists():
            views["heatmap/backprop_norm"] = wandb.Image(str(run.path / "heatmap.png"))
        logger.log_views(views)


MOST_ROWS = 5_000
"""Of a table that W&B's own charts read."""


def wandb_table(frame: pd.DataFrame) -> Any:
    """`step`, `layer`, `value` (log10 of backprop_norm) and `status` of the hidden layers: what the
    charts of `isometry wandb setup` draw; as many steps as there is room for.
    """
    import wandb

    from isometry.plots.logarithms import logarithms
    from isometry.plots.profiles import chosen_steps

    rows = frame[(frame["kind"] == "hidden") & frame["nonfinite"].notna()]
    layers = max(rows["layer"].nunique(), 1)
    steps = chosen_steps(sorted(rows["step"].unique()), max(2, MOST_ROWS // layers))
    kept = rows[rows["step"].isin(steps)]
    logs, status = logarithms(kept["backprop_norm"].to_numpy(dtype=float))
    table = kept[["step", "layer"]].assign(value=logs, status=status)
    return wandb.Table(dataframe=table)


def wandb_profile(frame: pd.DataFrame, column: str) -> Any:
    """log10 of a column against depth at a few steps, as a W&B line series (its axes are
    linear).
    """
    import wandb

    from isometry.plots.profiles import chosen_steps

    rows = frame.dropna(subset=column)
    steps = chosen_steps(sorted(rows["step"].unique()))
    layers = sorted(rows["layer"].unique())
    lines = []
    for step in steps:
        values = (
            rows[rows.step == step].set_index("layer")[column].reindex(layers).to_numpy(dtype=float)
        )
        logs = np.log10(values, where=values > 0, out=np.full(len(values), np.nan))
        lines.append([float(value) if np.isfinite(value) else None for value in logs])
    keys = [f"step {step}" for step in steps]
    xs = [int(layer) for layer in layers]
    return wandb.plot.line_series(
        xs, lines, keys=keys, title=f"log10 {column} against depth", xname="layer"
    )
