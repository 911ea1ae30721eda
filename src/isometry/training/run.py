"""`isometry train`: compose, build, fit, summarise. Read it top to bottom."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from isometry.config.checks import validate
from isometry.config.compose import resolved
from isometry.config.machine import check_machine
from isometry.console import console, print_config, quiet
from isometry.data.module import ImageData
from isometry.errors import DiskFull, UserError
from isometry.initialization.predict import predict_run
from isometry.runs.decision import Decision, clear, decide, decide_by_status
from isometry.runs.directory import RunDirectory, State
from isometry.runs.identity import run_id
from isometry.runs.lock import RunBusy, RunLock
from isometry.runs.signal_store import SignalStore
from isometry.signals.native import load_early
from isometry.training.build import build_classifier, build_data, build_network, seed_everything
from isometry.training.callbacks import Signals, Throughput
from isometry.training.classifier import Classifier
from isometry.training.loggers import build_loggers, close_loggers, start_loggers
from isometry.training.outcome import account_of, describe, reason_of, summarise
from isometry.training.processes import inside_launcher, is_first, launcher_is_gone
from isometry.training.resume import checkpoint_step, frozen_config, keep_before
from isometry.training.trainer import build_trainer
from isometry.training.views import draw_pictures, send_views

INTERRUPTED = 130
"""The exit code that shells give Ctrl-C; Lightning would say 1."""

STOPPED = "stopped by the user"
"""Why an interrupted run ended."""


def train(config: DictConfig) -> dict[str, Any]:
    """Train the configured run, go on with one that was cut short, or show the summary of one that
    is over.

    Returns:
        the summary.

    Raises:
        UserError: before anything is written, for a config that cannot be trained.
    """
    return go_on(*plan(config))


def plan(config: DictConfig) -> tuple[RunDirectory, DictConfig, Decision]:
    """Which run this is, the config that it trains with, and what is to be done with it."""
    if config.resume is not None:
        run = RunDirectory(Path(config.resume).resolve())
        config = frozen_config(Path(config.resume))
    else:
        run = RunDirectory(Path(config.paths.runs) / config.study_name / run_id(resolved(config)))
    validate(resolved(config))
    decision, why = decide(run, config.rerun)
    if why != "new":
        console.print(f"{run.run_id}: {why}", soft_wrap=True)
    return run, config, decision


def go_on(run: RunDirectory, config: DictConfig, decision: Decision) -> dict[str, Any]:
    """Do what was decided, in this process."""
    if decision in ("skip", "busy"):
        return run.summary() or {}
    return execute(config, run, resuming=decision == "resume")


def prepare(config: DictConfig) -> tuple[ImageData, Classifier]:
    """Data and classifier; everything that can be wrong with a config is told here, before the run
    begins.
    """
    quiet()
    check_machine(config)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    seed_everything(config.seed)
    data = build_data(config)
    return data, build_classifier(config, build_network(config, data.input_shape, data.num_classes))


def execute(config: DictConfig, run: RunDirectory, resuming: bool) -> dict[str, Any]:
    """Build everything, then begin the run: a mistake in the config leaves no half-made run behind.

    Of several processes that train together, rank 0 writes.
    """
    data, classifier = prepare(config)
    alone = not inside_launcher()
    first = is_first()
    # of several processes the launcher has begun the run
    attempt = run.next_attempt(resuming or not alone)
    loggers = (
        build_loggers(run, attempt, resolved(config), **resolved(config)["logger"]) if first else []
    )
    signals = Signals(
        **config.callbacks.signals,
        store=SignalStore(run.signals),
        initial_weights=run.initial_weights,
    )
    throughput = Throughput()
    trainer = build_trainer(config, run, loggers, [signals, throughput])
    lock = begin(config, run, resuming) if alone else None
    load_early(trainer.strategy.root_device)
    start_loggers(loggers)
    state: State = "failed"
    reason: str | None = None
    summary: dict[str, Any] = {}
    started = time.perf_counter()
    try:
        trainer.fit(classifier, data, ckpt_path=run.last_checkpoint if resuming else None)
        outcome: State = "finished" if signals.divergence is None else "diverged"
        if outcome == "finished":
            trainer.test(classifier, data, verbose=False)
        if first:
            run.write_prediction(
                predict_run(classifier.network.layer_map(), data, config.data.batch_size)
            )
            summary = summarise(
                config, run, classifier.metrics, trainer.global_step, signals.divergence, outcome
            )
            summary |= {"wall_seconds": round(time.perf_counter() - started, 3)}
            summary |= {"images_per_second": throughput.images_per_second}
            run.write_summary(summary)
            if signals.divergence is not None:
                reason = reason_of(signals.divergence, signals.divergent_batch)
                run.write_divergence(account_of(signals.divergence, signals.divergent_batch, run))
        state = outcome  # from here on the run is what it is, whatever becomes of its pictures
        if first and config.pictures:
            draw_pictures(run)
            send_views(run, loggers)
    except (KeyboardInterrupt, SystemExit) as stop:
        state = "interrupted"
        reason = STOPPED
        if first:
            say_interrupted(run)
        raise SystemExit(INTERRUPTED) from stop
    except BaseException as error:
        state = state_after(error)
        reason = f"{type(error).__name__}: {error}"
        raise
    finally:
        if first:
            run.end(state, reason)
        close_loggers(loggers, summary, failed=state in ("failed", "interrupted"))
        if lock is not None:
            lock.release()
    if first:
        console.print(describe(summary) + (f"; {reason}" if reason else ""), soft_wrap=True)
    return summary


def state_after(error: BaseException) -> State:
    """The state of a run that an error has ended: one that was through no fault of its own goes on
    when it is started again.

    Without its launcher one of several processes notices first, and the others lose it in the
    middle of a sum.
    """
    return "interrupted" if isinstance(error, DiskFull) or launcher_is_gone() else "failed"


def say_interrupted(run: RunDirectory) -> None:
    """How to go on."""
    console.print(
        f"interrupted; the same command goes on, and so does: isometry train resume={run.path}",
        soft_wrap=True,
    )


def begin(config: DictConfig, run: RunDirectory, resuming: bool) -> RunLock:
    """Lock the run, write config and status; a resume first drops what was recorded at or after its
    checkpoint's step.

    Raises:
        RunBusy: where another process trains the run, or has done so since it was decided what to
            do with it.
        UserError: where it cannot be written.
    """
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        lock = take(run, "resume" if resuming else "train", config.rerun)
        if resuming:
            keep_before(run, checkpoint_step(run.last_checkpoint))
        else:
            clear(run)
        run.begin(OmegaConf.to_yaml(config, resolve=True), resuming)
    except OSError as error:
        raise UserError(f"paths.runs={config.paths.runs}: cannot write there ({error})") from error
    console.print(f"[bold]{run.run_id}[/bold] -> {run.path}", soft_wrap=True)
    if config.print_config:
        print_config(config)
    return lock


def take(run: RunDirectory, decision: Decision, rerun: str | None) -> RunLock:
    """The lock of a run for which `decision` still holds: building takes a while, and others may
    train it meanwhile.
    """
    lock = RunLock(run.path)
    try:
        lock.acquire()
    except RunBusy as busy:
        raise RunBusy(f"{run.run_id} {busy}") from None
    now, why = decide_by_status(run, rerun)
    if now != decision:
        lock.release()
        raise RunBusy(f"{run.run_id}: another process has trained it in the meantime: {why}")
    return lock
