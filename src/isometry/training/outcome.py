"""How a run ended: recorded whatever it is, and summed up in `summary.json` (DESIGN.md)."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from lightning.pytorch.loggers import Logger
from numpy.typing import NDArray
from omegaconf import DictConfig

from isometry import gradient_rate as rates
from isometry.config.quoting import override
from isometry.console import console
from isometry.errors import INTERRUPTED, DiskFull
from isometry.runs.directory import RunDirectory, State
from isometry.runs.provenance import git_commit
from isometry.runs.signal_store import read_over_time
from isometry.signals.flush import Divergence
from isometry.training.loggers import close_loggers
from isometry.training.processes import is_first, launcher_is_gone
from isometry.training.through_time import farthest, profile_over_time

STOPPED = "stopped by the user"
"""Why an interrupted run ended."""


@dataclass
class Outcome:
    """What is known of a run; filled as it goes on.

    Attributes:
        began: when training began, on the clock of `time.perf_counter`.
        prediction: what the theory expects of the network at initialization.
        divergence: the first non-finite number, None as long as there is none.
        divergent_batch: the index of its batch in its epoch; None where no batch met it.
        alarm_step: the first step at which the alarm of the gradient norm went off.
        lambda_max: the largest eigenvalue of the Hessian at initialization, where it was asked for.
        anomaly: the operation whose gradient was not finite, where `trainer.detect_anomaly` stopped
            the training before its step was recorded.
        metrics: the latest value of each.
        tested: examples of the test.
        classes: answers it had.
        steps: optimizer steps taken.
        images_per_second: of the training, without validation.
        summary: the content of `summary.json`; empty in processes that do not write.
    """

    began: float = field(default_factory=time.perf_counter)
    prediction: dict[str, Any] = field(default_factory=dict)
    divergence: Divergence | None = None
    divergent_batch: int | None = None
    alarm_step: int | None = None
    lambda_max: float | None = None
    anomaly: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    tested: int = 0
    classes: int = 0
    steps: int = 0
    images_per_second: float | None = None
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> State:
        """The state of a run whose training has come to its end."""
        diverged = self.divergence is not None or self.anomaly is not None
        return "diverged" if diverged else "finished"

    @property
    def reason(self) -> str | None:
        """One line for `status.json` and the terminal; None for a run that finished."""
        if self.anomaly is not None:
            return f"the gradient of {self.anomaly} is not finite at step {self.steps}"
        if self.divergence is None:
            return None
        what = "preactivation" if self.divergence.kind == "forward" else "weight gradient"
        where = f"layer {self.divergence.layer} at step {self.divergence.step}"
        batch = "" if self.divergent_batch is None else f", batch {self.divergent_batch}"
        return f"first non-finite number: the {what} of {where}{batch}"


# ---- recorded ------------------------------------------------------------------------------------


@contextmanager
def recorded(run: RunDirectory, loggers: Sequence[Logger], outcome: Outcome) -> Iterator[None]:
    """Write how the block ends into status and loggers; Ctrl-C leaves with its exit code."""
    state: State = "failed"
    reason: str | None = None
    try:
        yield
        state = outcome.state
        reason = outcome.reason
    except (KeyboardInterrupt, SystemExit) as stop:
        state = "interrupted"
        reason = STOPPED
        if is_first():
            say_interrupted(run)
        raise SystemExit(INTERRUPTED) from stop
    except BaseException as error:
        state = state_after(error)
        reason = f"{type(error).__name__}: {error}"
        raise
    finally:
        try:
            if is_first():
                run.end(state, reason)
        finally:
            close_loggers(loggers, outcome.summary, failed=state in ("failed", "interrupted"))


def state_after(error: BaseException) -> State:
    """The state of a run that an error has ended: one that was through no fault of its own goes on
    when it is started again.

    Without its launcher one of several processes notices first, and the others lose it in the
    middle of a sum.
    """
    return "interrupted" if isinstance(error, DiskFull) or launcher_is_gone() else "failed"


def say_interrupted(run: RunDirectory) -> None:
    """How to go on."""
    words = f"goes on, and so does: isometry train {override('resume', run.path)}"
    begun = run.last_checkpoint.exists()
    command = words if begun else "begins again, as there is no checkpoint yet"
    console.print(f"interrupted; the same command {command}", soft_wrap=True)


# ---- summed up -----------------------------------------------------------------------------------


def summarise(
    config: DictConfig, run: RunDirectory, outcome: Outcome, rows: pd.DataFrame
) -> dict[str, Any]:
    """The summary of a run; None where a value does not exist.

    Args:
        config: of the run.
        run: its directory.
        outcome: of its training.
        rows: all its signals.
    """
    accuracies = ("test_accuracy", "val_accuracy", "train_loss")
    divergence = outcome.divergence
    return {
        "state": outcome.state,
        "outcome": learned(outcome),
        **{key: _number(outcome.metrics.get(key, math.nan)) for key in accuracies},
        **summarise_signals(
            config.verdict,
            rows,
            outcome.prediction,
            profile_over_time(read_over_time(run.signals)),
        ),
        **summarise_end(rows, outcome.state),
        "lambda_max": outcome.lambda_max,
        "alarm_step": outcome.alarm_step,
        "first_nonfinite_kind": divergence.kind if divergence else outcome.anomaly and "gradient",
        "first_nonfinite_layer": divergence and divergence.layer,
        "first_nonfinite_step": divergence.step
        if divergence
        else outcome.anomaly and outcome.steps,
        "steps": outcome.steps,
        "wall_seconds": round(time.perf_counter() - outcome.began, 3),
        "images_per_second": outcome.images_per_second,
        "run_id": run.run_id,
        "study": run.study,
        "seed": config.seed,
        "git_commit": git_commit(),
    }


def summarise_signals(
    thresholds: Mapping[str, float],
    rows: pd.DataFrame,
    prediction: Mapping[str, Any],
    over_time: NDArray[np.float64],
) -> dict[str, Any]:
    """Rates and verdict from the stored profiles of the hidden layers; the verdict of a recurrence
    also from that over time, whichever is farther from 1.
    """
    hidden = rows.query("kind == 'hidden'").dropna(subset=["backprop_norm"])
    hidden_at_start = rows.query("kind == 'hidden' and step == 0")
    profiles = [group.backprop_norm.to_numpy() for _, group in hidden.groupby("step")]
    count = int(rows.query("kind == 'hidden'")["layer"].nunique())
    ratio = rates.gradient_ratio(profiles[0]) if profiles else predicted_ratio(prediction, count)
    ratio_time = rates.gradient_ratio(over_time)
    found = [rates.gradient_rate(profile).rate for profile in profiles[:1] + profiles[-1:]]
    return {
        "gradient_rate_init": _number(found[0]) if found else None,
        "gradient_rate_final": _number(found[-1]) if found else None,
        "gradient_rate_predicted": prediction.get("gradient_rate_predicted"),
        "gradient_ratio_init": _number(ratio),
        "gradient_rate_time_init": _number(rates.gradient_rate(over_time).rate),
        "gradient_ratio_time_init": _number(ratio_time),
        "verdict_init": rates.verdict(farthest(ratio, ratio_time), **thresholds),
        "saturation_init": _number(hidden_at_start["saturation"].max()),
        "clipped_share": clipped_share(rows),
    }


def summarise_end(rows: pd.DataFrame, state: State) -> dict[str, Any]:
    """How far layer 1 went and how saturated it is at the end, which a run that diverged has not;
    the largest update of any layer and step; the largest share of dead units of a layer at the
    last measured step.
    """
    hidden = rows.query("kind == 'hidden'")
    first = hidden[hidden["layer"] == 1]
    measured = hidden.dropna(subset=["dead"])
    at_end = measured[measured["step"] == measured["step"].max()]
    return {
        "displacement_layer_1": None if state == "diverged" else _last(first["displacement"]),
        "saturation_layer_1": None if state == "diverged" else _last(first["saturation"]),
        "update_ratio_largest": _number(rows["update_ratio"].max()),
        "dead_largest": _number(at_end["dead"].max()),
    }


def _last(values: pd.Series) -> float | None:
    known = values.dropna()
    return None if known.empty else float(known.iloc[-1])


def learned(outcome: Outcome) -> str | None:
    """`learned`, `chance` or `diverged`; None where nothing was tested."""
    if outcome.state == "diverged":
        return "diverged"
    accuracy = outcome.metrics.get("test_accuracy")
    if accuracy is None or not outcome.tested:
        return None
    return rates.learned(accuracy, outcome.tested, outcome.classes)


def predicted_ratio(prediction: Mapping[str, Any], hidden: int) -> float:
    """What theory expects of `gradient_ratio`, for a network so extreme that it diverges before its
    gradient can be measured; nan where there is no prediction.
    """
    rate = prediction.get("gradient_rate_predicted")
    if rate is None or hidden < 2:
        return math.nan
    log_ratio = (hidden - 1) * math.log(rate)
    return math.exp(log_ratio) if log_ratio < 709 else math.inf


def clipped_share(rows: pd.DataFrame) -> float | None:
    """Share of the recorded steps at which clipping changed a gradient; None without a recorded
    step.
    """
    rows = rows.dropna(subset=["weight_grad_norm", "weight_grad_norm_clipped"])
    smaller = rows.weight_grad_norm_clipped < rows.weight_grad_norm * (1 - 1e-9)
    return None if rows.empty else float(smaller.groupby(rows.step).any().mean())


PROFILE = ("backprop_norm", "weight_grad_norm", "forward_second_moment")
"""What `divergence.json` shows of the last profile."""


def account_of(divergence: Divergence, batch: int | None, rows: pd.DataFrame) -> dict[str, Any]:
    """`divergence.json`: the address of the first non-finite number, and the last recorded profile
    before its step.
    """
    rows = rows[rows.step < divergence.step].dropna(subset=["backprop_norm"])
    last = rows[rows.step == rows.step.max()]
    profile = last[["layer", *PROFILE]].astype(object)
    return {
        **dataclasses.asdict(divergence),
        "batch": batch,
        "last_finite_step": int(last.step.iloc[0]) if len(last) else None,
        "last_finite_profile": profile.where(profile.notna(), None).to_dict("records"),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


NO_VERDICT = (
    "no verdict (backprop_norm of the last hidden layer is zero, or there are not two of them)"
)


def describe(outcome: Outcome) -> str:
    """Two lines for the terminal: how it ended, and what the gradient did at step 0."""
    summary = outcome.summary
    words = [f"state {summary['state']}"]
    words += [summary["outcome"]] if summary["outcome"] in ("learned", "chance") else []
    words += _given(summary, "test_accuracy", "first_nonfinite_step")
    words.append(f"{summary['steps']} steps in {summary['wall_seconds']:.1f} s")
    verdict = summary["verdict_init"]
    start = [f"at step 0: {NO_VERDICT if verdict is None else f'verdict {verdict}'}"]
    start += _given(summary, "gradient_rate_init", "gradient_ratio_init")
    start += _given(summary, "gradient_ratio_time_init", "saturation_init")
    lines = [", ".join(words), ", ".join(start)]
    return "\n".join([*lines, outcome.reason] if outcome.reason else lines)


def _given(summary: Mapping[str, Any], *keys: str) -> list[str]:
    return [f"{key} {summary[key]:.4g}" for key in keys if summary[key] is not None]
