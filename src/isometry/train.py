"""`isometry train`: compose, build, fit, summarise. Read it top to bottom."""

from __future__ import annotations

import logging
import math
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from isometry import gradient_rate as rates
from isometry.build import build_classifier, build_data, build_network, seed_everything
from isometry.callbacks import AtomicCheckpointIO, Progress, Signals, Throughput, checkpoints
from isometry.classifier import Classifier
from isometry.config import instantiate, resolved
from isometry.data.module import ImageData
from isometry.loggers import build_loggers
from isometry.provenance import git_commit
from isometry.runs.decision import clear, decide
from isometry.runs.directory import RunDirectory, State
from isometry.runs.identity import run_id
from isometry.runs.signal_store import SignalStore, read_signals
from isometry.validation import validate

console = Console(stderr=True, highlight=False)


def train(config: DictConfig) -> dict[str, Any]:
    """Train the configured run, or show the summary of one that is over; returns the summary.

    Raises:
        UserError: before anything is written, for a config that cannot be trained.
    """
    plain = resolved(config)
    validate(plain)
    run = RunDirectory(Path(config.paths.runs) / config.study_name / run_id(plain))
    decision, why = decide(run, config.rerun)
    if decision == "skip":
        console.print(f"{run.run_id}: {why}")
        return run.summary() or {}
    quiet()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    seed_everything(config.seed)
    data = build_data(config)
    classifier = build_classifier(config, build_network(config, data.input_shape, data.num_classes))
    clear(run)
    attempt = run.begin(OmegaConf.to_yaml(config, resolve=True))
    console.print(f"[bold]{run.run_id}[/bold] -> {run.path}", soft_wrap=True)
    return fit(config, plain, run, attempt, data, classifier)


def fit(
    config: DictConfig, plain: dict[str, Any], run: RunDirectory, attempt: int, data: ImageData, classifier: Classifier
) -> dict[str, Any]:
    """Train, and whatever happens leave the run directory and the loggers in the state that is true."""
    loggers = build_loggers(run, attempt, plain, **plain["logger"])
    signals = Signals(**config.callbacks.signals, store=SignalStore(run.signals))
    throughput = Throughput()
    trainer = build_trainer(config, run, loggers, [signals, throughput, Progress(run.run_id)])
    state: State = "failed"
    reason: str | None = None
    summary: dict[str, Any] = {}
    started = time.perf_counter()
    try:
        trainer.fit(classifier, data)
        metrics: dict[str, Any] = dict(trainer.callback_metrics)
        state = "finished" if signals.divergence is None else "diverged"
        if state == "finished":
            metrics |= trainer.test(classifier, data, verbose=False)[0]
        seconds = time.perf_counter() - started
        summary = summarise(config, run, metrics, trainer.global_step, signals, state, seconds)
        summary["images_per_second"] = throughput.images_per_second
        run.write_summary(summary)
    except (KeyboardInterrupt, SystemExit):
        state, reason = "interrupted", "stopped by the user"
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        raise
    finally:
        run.end(state, reason)
        close(loggers, summary, failed=state in ("failed", "interrupted"))
    console.print(describe(summary), soft_wrap=True)
    return summary


def build_trainer(config: DictConfig, run: RunDirectory, loggers: list[Any], callbacks: list[Any]) -> Trainer:
    """Lightning's Trainer with our checkpoints, written whole."""
    saving = checkpoints(run.checkpoints, **config.callbacks.checkpoints)
    return instantiate(  # type: ignore[no-any-return]
        config.trainer,
        logger=loggers or False,
        callbacks=[*callbacks, *saving],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=str(run.path),
    )


def summarise(
    config: DictConfig, run: RunDirectory, logged: dict[str, Any], steps: int, signals: Signals, state: State, seconds: float
) -> dict[str, Any]:
    """The flat summary of DESIGN.md; None where a value does not exist."""
    metrics = {key: float(value) for key, value in logged.items() if math.isfinite(float(value))}
    first = signals.divergence
    return {
        "state": state,
        **{key: metrics.get(key) for key in ("test_accuracy", "val_accuracy", "train_loss")},
        **summarise_signals(config, run),
        "first_nonfinite_kind": first and first.kind,
        "first_nonfinite_layer": first and first.layer,
        "first_nonfinite_step": first and first.step,
        "steps": steps,
        "wall_seconds": round(seconds, 3),
        "images_per_second": None,
        "run_id": run.run_id,
        "study": run.study,
        "seed": config.seed,
        "git_commit": git_commit(),
    }


def summarise_signals(config: DictConfig, run: RunDirectory) -> dict[str, Any]:
    """Rates and verdict from the stored profiles of the hidden layers."""
    rows = read_signals(run.signals, ["kind", "backprop_norm"]).query("kind == 'hidden'").dropna()
    profiles = [group.backprop_norm.to_numpy() for _, group in rows.groupby("step")]
    ratio = rates.gradient_ratio(profiles[0]) if profiles else math.nan
    thresholds = {key: config.verdict[key] for key in ("vanishing_below", "exploding_above")}
    return {
        "gradient_rate_init": _number(rates.gradient_rate(profiles[0]).rate) if profiles else None,
        "gradient_rate_final": _number(rates.gradient_rate(profiles[-1]).rate) if profiles else None,
        "gradient_rate_predicted": None,
        "gradient_ratio_init": _number(ratio),
        "verdict_init": rates.verdict(ratio, **thresholds),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def describe(summary: dict[str, Any]) -> str:
    """One line for the terminal."""
    words = [f"state {summary['state']}", f"verdict {summary['verdict_init']}"]
    for key in ("gradient_rate_init", "test_accuracy", "first_nonfinite_step"):
        if summary[key] is not None:
            words.append(f"{key} {summary[key]:.4g}")
    return ", ".join([*words, f"{summary['steps']} steps in {summary['wall_seconds']:.1f} s"])


def close(loggers: list[Any], summary: dict[str, Any], failed: bool) -> None:
    """Finish every logger; W&B is imported only where it is in use."""
    for logger in loggers:
        logger.save()
    if any(type(logger).__name__ == "WandbLogger" for logger in loggers):
        from isometry.loggers.wandb import finish

        finish(loggers, summary, failed)


def quiet() -> None:
    """Lightning's advertisements and its advice on loaders, which are not ours."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")  # of torch, in Lightning's code
    warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
