"""Weights & Biases: one W&B run per attempt, grouped by study. Whatever happens to W&B, the
training goes on.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, ClassVar

import wandb
import yaml
from lightning.pytorch.loggers import Logger, WandbLogger

from isometry.console import console
from isometry.runs.directory import RunDirectory
from isometry.runs.identity import relevant
from isometry.runs.provenance import git_commit

MAX_ID = 128
STEP = "trainer/global_step"
"""The key under which Lightning sends the optimizer step."""


class NoRun:
    """In the place of a W&B run that could not be started: takes everything and does nothing."""

    url = None
    summary: ClassVar[dict[str, Any]] = {}

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


class GuardedWandb(WandbLogger):
    """Lightning's logger, except that an error of W&B's becomes one warning that says what to do,
    and the run goes on.

    Lightning writes every value with our own step metric, `trainer/global_step`: an offline resume
    begins a second W&B directory whose internal steps start again, and the synced run is still one
    curve.
    """

    _warned = False

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self._columns: set[str] = set()  # of per-layer keys `column/layer_007`
        self._defined: set[str] = set()  # other keys whose step W&B knows

    def guarded(self, action: Callable[[], Any]) -> Any:
        """The action's result, None if W&B failed at it."""
        try:
            return action()
        except Exception as error:  # W&B raises what its transport raises
            self._warn(error)
            return None

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            first = str(error).strip().splitlines()
            warnings.warn(
                f"W&B: {type(error).__name__}: {first[0] if first else 'no answer'}. The run "
                "goes on, its files are whole; "
                f"what W&B missed is sent by: wandb sync {quote(str(self.save_dir))}/wandb/*run-*",
                stacklevel=4,
            )

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.guarded(lambda: self._define(metrics))
        self.guarded(lambda: super(GuardedWandb, self).log_metrics(metrics, step))

    def log_hyperparams(self, params: Any) -> None:
        self.guarded(lambda: super(GuardedWandb, self).log_hyperparams(params))

    def finalize(self, status: str) -> None:
        self.guarded(lambda: super(GuardedWandb, self).finalize(status))

    def log_views(self, views: Mapping[str, Any]) -> None:
        """Charts and images, beside the curves."""
        self.guarded(lambda: self._define(views))
        self.guarded(lambda: self.experiment.log(dict(views)))

    def begin(self) -> None:
        """Start the W&B run; without an answer from the server, offline."""
        for mode in (self._wandb_init.get("mode"), "offline", "disabled"):
            self._wandb_init["mode"] = mode
            if self.guarded(self._start) is not None:
                self._say_where()
                return
            self.guarded(wandb.teardown)  # the failed attempt holds the run id
        # Lightning would ask for another one at each step
        self._experiment = NoRun()  # type: ignore[assignment]

    def _say_where(self) -> None:
        if agents_id() is not None:
            sweep = os.environ["WANDB_SWEEP_ID"]
            words = f"W&B: the agent of sweep {sweep} names this run: {agents_id()}"
            console.print(words, soft_wrap=True)
        url = None if self._offline else self.guarded(lambda: self.experiment.url)
        if url:
            console.print(f"W&B: {url}", soft_wrap=True)

    def _start(self) -> Any:
        """Start the W&B run without Lightning's definition of all keys, `*`: of two globs that
        match W&B takes either, and the per-layer keys of a large network, defined one by one, are
        hundreds."""
        if self._offline and os.environ.get("WANDB_MODE") != "disabled":
            self._wandb_init["mode"] = "offline"
        self._experiment = wandb.init(**self._wandb_init)
        self._experiment.define_metric(STEP)
        return self._experiment

    def keep_out_of_summary(self, columns: Sequence[str]) -> None:
        """Per-layer keys of these columns would bury the keys by which runs are compared."""
        self._columns |= set(columns)
        for column in columns:
            self.guarded(functools.partial(self._define_column, column))

    def _define_column(self, column: str) -> None:
        self.experiment.define_metric(f"{column}/*", step_metric=STEP, summary="none")

    def _define(self, keys: Iterable[str]) -> None:
        """Tell W&B the step of keys it has not seen."""
        for key in keys:
            if key not in self._defined and key.partition("/")[0] not in self._columns:
                self._defined.add(key)
                self.experiment.define_metric(key, step_metric=STEP, step_sync=True)

    def finish(self, summary: Mapping[str, Any], failed: bool) -> None:
        """Write the summary keys and close; a run that failed is shown as crashed."""
        chosen = {key: value for key, value in summary.items() if value is not None}
        self.guarded(lambda: self.experiment.summary.update(chosen))
        self.guarded(lambda: self.experiment.finish(exit_code=1 if failed else 0))


def make_wandb(
    run: RunDirectory,
    attempt: int,
    config: Mapping[str, Any],
    project: str,
    entity: str | None,
    offline: bool,
    patience: float,
) -> GuardedWandb:
    """A logger whose W&B run carries study, run id and attempt in its id, and the study as its
    group.

    Args:
        run: the run's directory.
        attempt: its number.
        config: the resolved config; W&B shows what of it can change the result.
        project, entity, offline: of W&B.
        patience: seconds to wait for W&B's server, at the start and at the end.
    """
    wait = max(1.0, patience)
    settings = wandb.Settings(
        silent=True,
        console="off",
        init_timeout=wait,
        finish_timeout=wait,
        finish_timeout_raises=True,
        summary_timeout=int(wait),
    )
    logger = GuardedWandb(
        name=config.get("label") or os.environ.get("WANDB_NAME") or run.run_id,
        id=agents_id() or f"{run.study}-{run.run_id}-{attempt}"[-MAX_ID:],
        project=project,
        entity=entity,
        group=group_of(run),
        job_type=os.environ.get("WANDB_JOB_TYPE") or "train",
        tags=list(config.get("tags") or []) or None,  # None: WANDB_TAGS
        config=shown_config(config, run),
        save_dir=run.path,
        offline=offline,
        settings=settings,
    )
    # Lightning still passes it; W&B prints a warning for it
    logger._wandb_init.pop("anonymous", None)
    return logger


def shown_config(config: Mapping[str, Any], run: RunDirectory) -> dict[str, Any]:
    """What stands in W&B's config columns: nothing that cannot change the result; and once more,
    flat under `factors`, what the run's sweep varies.
    """
    words = dict(word.split("=", 1) for word in (config.get("label") or "").split() if "=" in word)
    factors = {key.replace(".", "_"): _typed(text) for key, text in words.items()}
    known = {"study": run.study, "run_id": run.run_id, "git_commit": git_commit()}
    return {**relevant(config), **known, "factors": factors}


def _typed(text: str) -> Any:
    """A number, where the word is one: W&B's axes are of numbers."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def agents_id() -> str | None:
    """The id that an agent of a W&B sweep has given the run it waits for; None without an agent."""
    return os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None


def group_of(run: RunDirectory) -> str:
    """The study; the environment's WANDB_RUN_GROUP where no study was named, or an agent of a W&B
    sweep did.
    """
    theirs = run.study == "single" or "WANDB_SWEEP_ID" in os.environ
    named = os.environ.get("WANDB_RUN_GROUP") if theirs else None
    return named or run.study


def tell_agent(logger: GuardedWandb, summary: Mapping[str, Any]) -> None:
    """Show the known summary of a run that is not trained again as the one that a W&B sweep's agent
    waits for.
    """
    logger.begin()
    logger.finish(summary, failed=False)


def finish(loggers: Sequence[Logger], summary: Mapping[str, Any], failed: bool) -> None:
    """Close the W&B runs among the loggers."""
    for logger in loggers:
        if isinstance(logger, GuardedWandb):
            logger.finish(summary, failed)


def offline_runs(run: RunDirectory) -> list[Path]:
    """W&B's offline directories of a run, oldest first."""
    return sorted(run.path.glob("wandb/offline-run-*"))
