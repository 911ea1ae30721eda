"""What every launcher of ours does first: compose all jobs, freeze and validate them, ask which are
left to run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from omegaconf import DictConfig

from isometry.config.checks import processes_of, validate
from isometry.config.compose import resolved
from isometry.errors import UserError, bad_value
from isometry.launch.fast_compose import Composer
from isometry.launch.job import Job
from isometry.runs.decision import Decision, decide
from isometry.runs.directory import RunDirectory
from isometry.runs.files import written_below
from isometry.runs.identity import run_id
from isometry.runs.order import note_order

TASK = "isometry.launch.ddp:train"

LONGEST_LABEL = 100

failures: list[int] = []
"""Numbers of the jobs of this process's sweeps that did not end well; makes the exit code."""


class _Original:
    """Hydra's own loader, past the composer that is put into its place."""

    def __init__(self, loader: Any):
        self.load_sweep_config = loader.load_sweep_config
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def install_composer(hydra_context: Any, config: DictConfig) -> Composer:
    """A composer that Hydra's sweeper uses, too: it composes every job to see whether it is
    legal.
    """
    loader = hydra_context.config_loader
    composer = Composer(_Original(loader), config)

    def load_sweep_config(master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        return composer.compose(sweep_overrides)

    loader.load_sweep_config = load_sweep_config
    return composer


def plan_jobs(composer: Composer, job_overrides: Sequence[Sequence[str]], first: int) -> list[Job]:
    """Compose, freeze and validate all jobs, and decide what is to be done with each.

    Raises:
        UserError: for a job whose config cannot be trained, before anything runs; for none.
    """
    if not job_overrides:
        raise UserError("the sweep has no job: a range or a glob of it is empty")
    labels = differing(job_overrides)
    pairs = enumerate(zip(job_overrides, labels, strict=True), start=first)
    jobs = [_job(composer, words, text, number) for number, (words, text) in pairs]
    decide_all(jobs)
    return jobs


def _job(composer: Composer, words: Sequence[str], text: str, number: int) -> Job:
    try:
        frozen = resolved(composer.compose(words))
        validate(frozen)
        frozen["label"] = frozen["label"] or text[:LONGEST_LABEL] or None
    except UserError as error:
        raise UserError(f"job #{number} ({text}): {error}") from error
    run = RunDirectory(Path(frozen["paths"]["runs"]) / frozen["study_name"] / run_id(frozen))
    devices = frozen["trainer"]["devices"]  # auto is one: the others are for other jobs
    return Job(number, text, frozen, run, processes_of(devices))


def differing(job_overrides: Sequence[Sequence[str]]) -> list[str]:
    """Of each job the overrides that not all jobs have; all of them where there is one job."""
    kept = [filter_overrides(words) for words in job_overrides]
    common = set.intersection(*(set(words) for words in kept)) if len(kept) > 1 else set()
    return [" ".join(word for word in words if word not in common) for words in kept]


def decide_all(jobs: Sequence[Job]) -> None:
    """What is to be done with each job, asked of `runs`; two jobs with one run id are one run."""
    seen: dict[Path, Job] = {}
    with ThreadPoolExecutor(MOST_AT_ONCE) as threads:  # each may watch a lock for a while
        decisions = list(threads.map(_decided, jobs))
    for job, (decision, why) in zip(jobs, decisions, strict=True):
        first = seen.setdefault(job.run.path, job)
        if first is not job:
            job.state = "skipped"
            job.note = f"the same run as #{first.number}"
            continue
        if decision in ("skip", "busy"):
            job.state = "skipped" if decision == "skip" else "busy"
            job.note = why


MOST_AT_ONCE = 32
"""Runs whose locks are watched at once."""


def _decided(job: Job) -> tuple[Decision, str]:
    return decide(job.run, job.config["rerun"], job.config["trainer"])


def note_orders(jobs: Sequence[Job]) -> None:
    """Write down in which order the sweep has named its runs: tables and pictures keep it."""
    studies = dict.fromkeys(job.run.path.parent for job in jobs)
    for study in studies:
        with written_below("paths.runs", study.parent):
            note_order(study, [job.run.run_id for job in jobs if job.run.path.parent == study])


def summary_line(jobs: Sequence[Job]) -> str:
    """How large the sweep is, and how much of it is left."""
    waiting = sum(job.state == "waiting" for job in jobs)
    return f"{len(jobs)} jobs, {len(jobs) - waiting} done already or elsewhere, {waiting} to run"


def note_failures(jobs: Sequence[Job]) -> None:
    """Remember what did not end well, for the exit code."""
    failures.extend(job.number for job in jobs if job.state in ("failed", "interrupted"))


def returned(job: Job, worst: float) -> JobReturn:
    """What Hydra's sweeper wants to hear: the summary, or the number of it that `metric` names;
    failures are told by the exit code, after all jobs have run.
    """
    result = JobReturn(overrides=job.words.split(), status=JobStatus.COMPLETED)
    summary = dict(job.run.summary() or {})
    metric = job.config.get("metric")
    result.return_value = summary if metric is None else score(summary, metric, worst)
    return result


def refuse_unknown_metric(jobs: Sequence[Job]) -> None:
    """A search whose runs have not got what it compares finds nothing.

    Raises:
        UserError: where runs have finished, and none has it.
    """
    metric = jobs[0].config.get("metric")
    summaries = [dict(job.run.summary() or {}) for job in jobs]
    ended = [summary for summary in summaries if summary.get("state") == "finished"]
    if metric is not None and ended and all(found.get(metric) is None for found in ended):
        words = "no run has it; validation and test happen where trainer.* lets them"
        raise bad_value("metric", metric, words)


def score(summary: Mapping[str, Any], metric: str, worst: float) -> float:
    """The number that a searching sweeper compares.

    Args:
        summary: of the run.
        metric: a key of it.
        worst: of a run that has none, as it diverged or failed.
    """
    value = summary.get(metric)
    return worst if value is None else float(value)


def worst_score(config: DictConfig) -> float:
    """What a run without the metric counts for: nothing is worse in the sweeper's direction.

    Raises:
        UserError: for a sweeper that searches without saying what for, or for the worst accuracy.
    """
    sweeper = config.hydra.sweeper
    if sweeper._target_ == "hydra._internal.core_plugins.basic_sweeper.BasicSweeper":
        return -math.inf
    if config.metric is None:
        words = "metric=val_accuracy hydra.sweeper.direction=maximize"
        raise bad_value("metric", "null", f"a sweeper that searches needs one: {words}")
    minimizes = "minimize" in str(sweeper.get("direction"))
    if minimizes and "accuracy" in config.metric:
        words = f"metric={config.metric} is better where it is higher; maximize finds the best"
        raise bad_value("hydra.sweeper.direction", "minimize", words)
    return math.inf if minimizes else -math.inf
