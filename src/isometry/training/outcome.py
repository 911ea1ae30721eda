"""`summary.json`: the flat keys of DESIGN.md."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from isometry import gradient_rate as rates
from isometry.runs.directory import RunDirectory, State
from isometry.runs.provenance import git_commit
from isometry.runs.signal_store import read_signals
from isometry.signals.flush import Divergence


def summarise(
    config: DictConfig,
    run: RunDirectory,
    metrics: Mapping[str, float],
    steps: int,
    divergence: Divergence | None,
    state: State,
) -> dict[str, Any]:
    """The summary of a run; None where a value does not exist."""
    return {
        "state": state,
        **{
            key: _number(metrics.get(key, math.nan))
            for key in ("test_accuracy", "val_accuracy", "train_loss")
        },
        **summarise_signals(config, run),
        "first_nonfinite_kind": divergence and divergence.kind,
        "first_nonfinite_layer": divergence and divergence.layer,
        "first_nonfinite_step": divergence and divergence.step,
        "steps": steps,
        "wall_seconds": None,
        "images_per_second": None,
        "run_id": run.run_id,
        "study": run.study,
        "seed": config.seed,
        "git_commit": git_commit(),
    }


def account_of(divergence: Divergence, batch: int | None, run: RunDirectory) -> dict[str, Any]:
    """`divergence.json`: the address of the first non-finite number, and the last recorded profile
    before its step.
    """
    rows = read_signals(run.signals, ["backprop_norm", "weight_grad_norm", "forward_second_moment"])
    rows = rows[rows.step < divergence.step].dropna(subset=["backprop_norm"])
    last = rows[rows.step == rows.step.max()]
    profile = (
        last.drop(columns="step")
        .astype(object)
        .where(last.drop(columns="step").notna(), None)
        .to_dict("records")
    )
    step = int(last.step.iloc[0]) if len(last) else None
    return {
        **dataclasses.asdict(divergence),
        "batch": batch,
        "last_finite_step": step,
        "last_finite_profile": profile,
    }


def reason_of(divergence: Divergence, batch: int | None) -> str:
    """One line for `status.json` and the terminal."""
    what = "preactivation" if divergence.kind == "forward" else "weight gradient"
    return (
        f"first non-finite number: the {what} of layer {divergence.layer} at step "
        f"{divergence.step}, batch {batch}"
    )


def clipped_share(rows: pd.DataFrame) -> float | None:
    """Share of the recorded steps at which clipping changed a gradient; None without a recorded
    step.
    """
    rows = rows.dropna(subset=["weight_grad_norm", "weight_grad_norm_clipped"])
    smaller = rows.weight_grad_norm_clipped < rows.weight_grad_norm * (1 - 1e-9)
    return None if rows.empty else float(smaller.groupby(rows.step).any().mean())


def summarise_signals(config: DictConfig, run: RunDirectory) -> dict[str, Any]:
    """Rates and verdict from the stored profiles of the hidden layers."""
    frame = read_signals(
        run.signals, ["kind", "backprop_norm", "weight_grad_norm", "weight_grad_norm_clipped"]
    )
    rows = frame.query("kind == 'hidden'").dropna(subset=["backprop_norm"])
    profiles = [group.backprop_norm.to_numpy() for _, group in rows.groupby("step")]
    ratio = rates.gradient_ratio(profiles[0]) if profiles else math.nan
    thresholds = {key: config.verdict[key] for key in ("vanishing_below", "exploding_above")}
    return {
        "gradient_rate_init": _number(rates.gradient_rate(profiles[0]).rate) if profiles else None,
        "gradient_rate_final": _number(rates.gradient_rate(profiles[-1]).rate)
        if profiles
        else None,
        "gradient_rate_predicted": (run.prediction() or {}).get("gradient_rate_predicted"),
        "gradient_ratio_init": _number(ratio),
        "verdict_init": rates.verdict(ratio, **thresholds),
        "clipped_share": clipped_share(frame),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def describe(summary: Mapping[str, Any]) -> str:
    """One line for the terminal."""
    words = [f"state {summary['state']}", f"verdict {summary['verdict_init']}"]
    for key in ("gradient_rate_init", "test_accuracy", "first_nonfinite_step"):
        if summary[key] is not None:
            words.append(f"{key} {summary[key]:.4g}")
    return ", ".join([*words, f"{summary['steps']} steps in {summary['wall_seconds']:.1f} s"])
