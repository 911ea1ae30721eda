"""One run of `isometry train`: compose, build, fit, outcome. Read it top to bottom."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from rich.text import Text

from isometry.config.checks import validate
from isometry.config.compose import resolved
from isometry.config.machine import check_machine
from isometry.console import console, print_config, quiet
from isometry.data.module import DataModule, evaluation_loader, training_images
from isometry.errors import bad_value
from isometry.initialization.curvature import curvature
from isometry.initialization.predict import LARGEST, predict_run
from isometry.layers.discover import layers_of
from isometry.runs.decision import Decision, clear, decide, decide_by_status
from isometry.runs.directory import RunDirectory
from isometry.runs.files import remove_unfinished, written_below
from isometry.runs.identity import run_id
from isometry.runs.lock import WATCH_SECONDS, RunBusy, RunLock, foreign_owner
from isometry.runs.signal_store import SignalStore, read_signals
from isometry.training.build import (
    build_classifier,
    build_data,
    build_for,
    build_statistics,
    check_labels,
    check_limits,
    seed_everything,
)
from isometry.training.callbacks import Signals, Throughput, ViewsMeanwhile
from isometry.training.classifier import LOSSES, Classifier
from isometry.training.last_look import anomaly, lost_weights
from isometry.training.loggers import build_loggers, start_loggers
from isometry.training.outcome import Outcome, account_of, describe, recorded, summarise
from isometry.training.processes import inside_launcher, is_first, stopped_by_signals
from isometry.training.resume import (
    at_home,
    checkpoint_step,
    frozen_config,
    keep_before,
    refuse_half_an_epoch,
    restoring,
    warn_of_foreign_order,
)
from isometry.training.trainer import build_trainer
from isometry.training.views import show_views


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
    asked = config.resume is not None
    if asked:
        run = RunDirectory(Path(config.resume).resolve())
        config = at_home(frozen_config(Path(config.resume)), config)
    else:
        validate(resolved(config))
        config = placed(config)
        study = Path(config.paths.runs) / config.study_name
        run = RunDirectory(study / run_id(resolved(config)))
    validate(resolved(config))
    say_what_is_watched([run])
    decision, why = decide(run, config.rerun, config.trainer)
    if why != "new":
        console.print(f"{run.run_id}: {why}", soft_wrap=True)
    if decision == "resume" and (run.status() or {})["state"] == "finished":
        refuse_half_an_epoch(run)
    if asked and decision == "train":
        refuse_from_the_beginning(run, config.rerun)
    return run, config, decision


def say_what_is_watched(runs: Sequence[RunDirectory]) -> None:
    """Why nothing happens for a while: another machine's processes are only known to live by their
    heartbeats.
    """
    for run in runs:
        if (owner := foreign_owner(run.path)) is not None:
            words = f"locked by {owner}; its heartbeat is waited for, {WATCH_SECONDS:.0f} s"
            console.print(f"{run.run_id}: {words}", soft_wrap=True)


def refuse_from_the_beginning(run: RunDirectory, rerun: str | None) -> None:
    """`resume=` removes nothing that was measured.

    Raises:
        UserError: for a run that would begin anew, unless that is asked for.
    """
    if rerun is None:
        words = "has no checkpoint to go on from; rerun=all trains it from its beginning"
        raise bad_value("resume", run.path, words)


def placed(config: DictConfig) -> DictConfig:
    """The config with whole paths: a run directory is read from other folders later."""
    if config.data.get("raw_dir") is None:
        return config
    config = config.copy()
    config.data.raw_dir = str(Path(config.data.raw_dir).absolute())
    return config


def go_on(run: RunDirectory, config: DictConfig, decision: Decision) -> dict[str, Any]:
    """Do what was decided, in this process."""
    if decision in ("skip", "busy"):
        known = run.summary() or {}
        elsewhere = {"state": "running", "study": run.study, "run_id": run.run_id}
        tell_agent_of_sweep(config, run, known if decision == "skip" else elsewhere)
        return known
    parts = assemble(config, run, resuming=decision == "resume")
    with begun(config, run, decision):
        return execute(parts)


# ---- build ---------------------------------------------------------------------------------------


@dataclass
class Parts:
    """What one process needs to train a run, built: a mistake in the config has been told.

    Attributes:
        config: of the run.
        run: its directory, which need not exist yet.
        resuming: whether it goes on from its last checkpoint.
        data, classifier, signals, throughput, loggers, trainer: built; of several processes that
            train together only the first has loggers.
    """

    config: DictConfig
    run: RunDirectory
    resuming: bool
    data: DataModule
    classifier: Classifier
    signals: Signals
    throughput: Throughput
    loggers: list[Logger]
    trainer: Trainer


def prepare(config: DictConfig) -> tuple[DataModule, Classifier]:
    """Data and classifier; everything that can be wrong with a config is told here, before the run
    begins.
    """
    quiet()
    check_machine(config)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    seed_everything(config.seed)
    data = build_data(config)
    return data, classifier_for(config, data)


def classifier_for(config: DictConfig, data: DataModule) -> Classifier:
    """The classifier for a data set, on any machine."""
    check_limits(config, data)
    check_labels(data)
    return build_classifier(config, build_for(config, data))


def assemble(config: DictConfig, run: RunDirectory, resuming: bool) -> Parts:
    """Build everything, before the run begins: a mistake leaves no half-made run behind."""
    data, classifier = prepare(config)
    loggers = run_loggers(config, run, resuming) if is_first() else []
    signals = Signals(
        store=SignalStore(run.signals),
        initial_weights=run.initial_weights,
        **{
            **resolved(config.callbacks.signals),
            "statistics": build_statistics(config.callbacks.signals.statistics),
        },
    )
    throughput = Throughput()
    views = [ViewsMeanwhile(run, loggers)] if config.pictures and is_first() else []
    trainer = build_trainer(config, run, loggers, [signals, throughput, *views])
    return Parts(config, run, resuming, data, classifier, signals, throughput, loggers, trainer)


def tell_agent_of_sweep(config: DictConfig, run: RunDirectory, summary: Mapping[str, Any]) -> None:
    """An agent of a W&B sweep that proposes a run which is not trained here gets what is known of
    it, as a run of its own.
    """
    if "WANDB_SWEEP_ID" not in os.environ or "wandb" not in config.logger.names:
        return
    from isometry.training.loggers.wandb import GuardedWandb, tell_agent

    for logger in run_loggers(config, run, resuming=False):
        if isinstance(logger, GuardedWandb):
            tell_agent(logger, summary)


def run_loggers(config: DictConfig, run: RunDirectory, resuming: bool) -> list[Logger]:
    """The loggers of the attempt that begins; of several processes the launcher has begun it."""
    attempt = run.next_attempt(resuming or inside_launcher())
    plain = resolved(config)
    return build_loggers(run, attempt, plain, **plain["logger"])


# ---- begin ---------------------------------------------------------------------------------------


@contextmanager
def begun(config: DictConfig, run: RunDirectory, decision: Decision) -> Iterator[RunLock]:
    """The run locked, with its config and status written, for as long as the block trains it.

    A resume first drops what was recorded at or after its checkpoint's step.

    Raises:
        RunBusy: where another process trains the run, or has done so since it was decided what to
            do with it.
        UserError: where it cannot be written.
    """
    with written_below("paths.runs", config.paths.runs):
        run.path.mkdir(parents=True, exist_ok=True)
        lock = take(run, decision, config)
    try:
        with written_below("paths.runs", config.paths.runs):
            begin(config, run, resuming=decision == "resume")
        console.print(Text(run.run_id, "bold"), "->", run.path, soft_wrap=True)
        if config.print_config:
            print_config(config)
        yield lock
    finally:
        lock.release()


def take(run: RunDirectory, decision: Decision, config: DictConfig) -> RunLock:
    """The lock of a run for which `decision` still holds: building takes a while, and others may
    train it meanwhile.
    """
    lock = RunLock(run.path)
    try:
        lock.acquire()
    except RunBusy as busy:
        raise RunBusy(f"{run.run_id} {busy}") from None
    now, why = decide_by_status(run, config.rerun, config.trainer)
    if now != decision:
        lock.release()
        raise RunBusy(f"{run.run_id}: another process has trained it in the meantime: {why}")
    return lock


def begin(config: DictConfig, run: RunDirectory, resuming: bool) -> None:
    """Sweep up after a kill, drop what is measured again, and write config and status."""
    run.refuse_links()
    remove_unfinished(run.path, run.checkpoints, run.signals, run.signals_over_time)
    if resuming:
        keep_before(run, checkpoint_step(run.last_checkpoint))
    else:
        clear(run)
    run.begin(OmegaConf.to_yaml(config, resolve=True), resuming)


# ---- fit and outcome -----------------------------------------------------------------------------


def execute(parts: Parts) -> dict[str, Any]:
    """Train a run that has begun, and conclude it; what ends it is recorded, whatever it is.

    Of several processes that train together, the first one writes.
    """
    outcome = Outcome()
    with stopped_by_signals(), recorded(parts.run, parts.loggers, outcome):
        start(parts, outcome)
        fit(parts, outcome)
        if is_first():
            conclude(parts, outcome)
    if is_first():
        console.print(describe(outcome), soft_wrap=True)
        say_what_is_there(parts.run)
    return outcome.summary


def say_what_is_there(run: RunDirectory) -> None:
    """The pictures of a run, and what can be done with it."""
    pictures = [str(path) for path in (run.path / "profile.png", run.path / "heatmap.png")]
    if drawn := [path for path in pictures if Path(path).exists()]:
        console.print(f"pictures: {'  '.join(drawn)}", soft_wrap=True)
    console.print(f"next: isometry eval {quote(str(run.path))}", soft_wrap=True)
    if run.study != "single":
        console.print(f"      isometry compare {quote(str(run.path.parent))}", soft_wrap=True)


def start(parts: Parts, outcome: Outcome) -> None:
    """What comes before the first step; the theory is asked before it is known what happens."""
    start_loggers(parts.loggers)
    if is_first():
        layers = layers_of(parts.classifier.network)
        size = parts.config.data.batch_size
        images = training_images(parts.data, min(size, LARGEST))
        outcome.prediction = predict_run(layers, images, size)
        parts.run.write_prediction(outcome.prediction)
        outcome.lambda_max = lambda_max(parts) if parts.config.get("curvature") else None


def lambda_max(parts: Parts) -> float | None:
    """The largest eigenvalue of the Hessian of the first training examples' loss, in a copy of the
    network.
    """
    images, labels = next(iter(evaluation_loader(parts.data, "train")))
    batch = (images[: parts.config.data.batch_size], labels[: parts.config.data.batch_size])
    network = copy.deepcopy(parts.classifier.network)
    return curvature(network, batch, LOSSES[parts.config.loss]).hessian


def fit(parts: Parts, outcome: Outcome) -> None:
    """Train, and test what did not diverge."""
    checkpoint = parts.run.last_checkpoint if parts.resuming else None
    if checkpoint is not None and is_first():
        warn_of_foreign_order(parts.data, checkpoint)
    try:
        with restoring(parts.trainer, checkpoint):
            parts.trainer.fit(parts.classifier, parts.data, ckpt_path=checkpoint)
    except RuntimeError as error:
        outcome.anomaly = anomaly(error)
        if outcome.anomaly is None:
            raise
    outcome.divergence = parts.signals.divergence or lost_weights(
        parts.classifier.network, parts.trainer.global_step
    )
    outcome.divergent_batch = parts.signals.divergent_batch
    outcome.alarm_step = parts.signals.kept.alarm_step
    if outcome.state == "finished":
        parts.trainer.test(parts.classifier, parts.data, verbose=False)
    outcome.metrics = parts.classifier.metrics
    outcome.tested = parts.classifier.examples.get("test", 0)
    outcome.classes = parts.data.num_classes
    outcome.steps = parts.trainer.global_step
    outcome.images_per_second = parts.throughput.images_per_second


def conclude(parts: Parts, outcome: Outcome) -> None:
    """Summary, account of a divergence, pictures."""
    rows = read_signals(parts.run.signals)
    outcome.summary = summarise(parts.config, parts.run, outcome, rows)
    parts.run.write_summary(outcome.summary)
    if outcome.divergence is not None:
        parts.run.write_divergence(account_of(outcome.divergence, outcome.divergent_batch, rows))
    if parts.config.pictures:
        show_views(parts.run, rows, parts.loggers)
