"""`hydra/launcher=slurm`: the jobs of a sweep as one Slurm array, through submitit.

Configs are composed and frozen before anything is submitted. What makes a sweep survive (skip,
resume, lock, status) lives in the run itself. On the signal that comes before a time limit or a
preemption the run writes a checkpoint and ends as `interrupted`; its task then asks Slurm to queue
it again, and goes on from the checkpoint when it is back.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from isometry.console import plain_console
from isometry.errors import UserError
from isometry.launch import sweep
from isometry.launch.job import Job
from isometry.launch.progress_table import final
from isometry.launch.rehearsal import rehearse
from isometry.runs.decision import Decision
from isometry.runs.directory import RunDirectory
from isometry.runs.lock import RunBusy

LOOK_SECONDS = 2.0
GONE_AFTER = 5
"""Looks in a row that must miss a job in the queue before it counts as gone: while Slurm requeues
it, it is not listed.
"""

RANKS_WAIT_SECONDS = 300.0
"""How long other ranks wait for the first one to have begun the run."""


class Slurm:
    """The launcher; its arguments are the keys of `conf/hydra/launcher/slurm.yaml`.

    Raises:
        UserError: without submitit or without Slurm.
    """

    def __init__(
        self,
        timeout_minutes: int,
        signal_seconds: int,
        array_parallelism: int,
        wait: bool,
        **resources: Any,
    ):
        self.timeout_minutes = timeout_minutes
        self.signal_seconds = signal_seconds
        self.array_parallelism = array_parallelism
        self.wait = wait
        self.resources: dict[str, Any] = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in resources.items()
        }

    def setup(self, hydra_context: Any, config: DictConfig) -> None:
        """Called by Hydra before the sweep."""
        self.composer = sweep.install_composer(hydra_context, config)
        self.worst = sweep.worst_score(config)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> list[JobReturn]:
        """Submit a batch of jobs; with `wait`, returns when all have ended.

        Raises:
            UserError: before anything is submitted, for a job whose config cannot be trained.
        """
        console = plain_console(stderr=True)
        jobs = sweep.plan_jobs(self.composer, job_overrides, initial_job_idx)
        console.print(sweep.summary_line(jobs), soft_wrap=True)
        waiting = [job for job in jobs if job.state == "waiting"]
        if waiting:
            rehearse(multiprocessing.get_context("spawn"), waiting, elsewhere=True)
            submitted = self._submit(waiting)
            sweep.note_orders(jobs)
            console.print(
                (
                    f"submitted as {submitted[0].job_id.split('_')[0]}; logs in "
                    f"{waiting[0].log.parent}"
                ),
                soft_wrap=True,
            )
            if self.wait:
                _follow(waiting, submitted[0].job_id.split("_")[0], console)
        if self.wait or not waiting:
            final(jobs, console)
            sweep.note_failures(jobs)
        return [sweep.returned(job, self.worst) for job in jobs]

    def _submit(self, jobs: Sequence[Job]) -> list[Any]:
        tasks = [SlurmTask(sweep.TASK, dict(j.config), str(j.run.path.resolve())) for j in jobs]
        try:
            return list(self._executor(jobs[0]).map_array(_start, tasks))
        except RuntimeError as error:  # submitit's own, and what sbatch says
            first = (str(error).splitlines() or ["sbatch failed"])[0]
            raise UserError(f"hydra/launcher=slurm: Slurm takes no job ({first})") from error

    def _executor(self, job: Job) -> Any:
        try:
            import submitit
        except ModuleNotFoundError as error:
            raise UserError(
                "hydra/launcher=slurm needs submitit: pip install 'isometry[slurm]'"
            ) from error
        try:
            executor = submitit.AutoExecutor(
                folder=job.log.parent / "slurm" / "%A", cluster="slurm"
            )
        except RuntimeError as error:
            raise UserError(
                f"hydra/launcher=slurm: no Slurm here ({error}); hydra/launcher=pool runs on "
                "this machine"
            ) from error
        known = {
            key: value
            for key, value in self.resources.items()
            if value is not None and key not in ("partition", "additional")
        }
        executor.update_parameters(
            name="isometry",
            timeout_min=self.timeout_minutes,
            slurm_signal_delay_s=self.signal_seconds,
            slurm_array_parallelism=self.array_parallelism,
            slurm_additional_parameters={
                "requeue": True,
                **(self.resources.get("additional") or {}),
            },
            **(
                {"slurm_partition": self.resources["partition"]}
                if self.resources.get("partition")
                else {}
            ),
            **known,
        )
        return executor


def _start(task: SlurmTask) -> None:
    task()


@dataclass
class SlurmTask:
    """What runs inside of Slurm: one run, in as many processes as the job has tasks.

    Attributes:
        task: module and function.
        config: the frozen config.
        run: the run directory.
    """

    task: str
    config: Mapping[str, Any]
    run: str

    def __call__(self) -> None:
        # submitit's own handlers would leave in the middle of a step; ours
        # (training.callbacks.Interruption) wait for it
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT):
            signal.signal(number, signal.SIG_DFL if number == signal.SIGCONT else _interrupt)
        try:
            _train(self)
        except (KeyboardInterrupt, SystemExit) as stop:
            if isinstance(stop, SystemExit) and stop.code in (0, None):
                return
            if os.environ.get("SLURM_PROCID", "0") == "0":
                requeue()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(60)  # Slurm ends this process when it queues the job again
            raise


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def requeue() -> None:
    """Queue this job again under its own number."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    name = (
        os.environ["SLURM_JOB_ID"]
        if array is None
        else f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    )
    subprocess.run(["scontrol", "requeue", name], check=False)


def _train(task: SlurmTask) -> None:
    from isometry.launch.ddp import train

    config = OmegaConf.create(dict(task.config))
    try:
        if int(os.environ.get("SLURM_NTASKS", "1")) > 1:
            _train_together(config, Path(task.run))
        else:
            train(config)
    except UserError as error:
        print(f"isometry: {error}", file=sys.stderr, flush=True)
        if not isinstance(error, RunBusy):
            raise


def _train_together(config: DictConfig, path: Path) -> None:
    """One rank of a run that Slurm has started in several processes: the first one decides and
    begins it.
    """
    from isometry.training.run import begun, plan

    note = _note_of(path)
    if os.environ["SLURM_PROCID"] != "0":
        _train_rank(config, RunDirectory(path), _decision_of_first(note))
        return
    run, config, decision = plan(config)
    with ExitStack() as stack:
        stack.callback(note.unlink, missing_ok=True)
        try:
            if decision in ("train", "resume"):
                stack.enter_context(begun(config, run, decision))
        except RunBusy as busy:
            decision = "busy"
            print(f"isometry: {busy}", file=sys.stderr, flush=True)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(decision))
        _train_rank(config, run, decision)


def _train_rank(config: DictConfig, run: RunDirectory, decision: Decision) -> None:
    from isometry.training.run import assemble, execute

    if decision in ("train", "resume"):
        execute(assemble(config, run, resuming=decision == "resume"))


def _note_of(path: Path) -> Path:
    """Where the first rank says what it has decided; of this job and this start of it alone."""
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    return path.parent / "logs" / f"{path.name}.{os.environ['SLURM_JOB_ID']}.{restart}.json"


def _decision_of_first(note: Path) -> Decision:
    deadline = time.time() + RANKS_WAIT_SECONDS
    while time.time() < deadline:
        if note.exists() and note.read_text():
            decision: Decision = json.loads(note.read_text())
            return decision
        time.sleep(0.2)
    raise TimeoutError(f"rank 0 has not begun the run within {RANKS_WAIT_SECONDS:.0f} s")


def _follow(jobs: Sequence[Job], number: str, console: Console) -> None:
    """Print what changes until all have ended; Ctrl-C leaves the jobs to Slurm."""
    told: dict[int, str] = {}
    absent = dict.fromkeys(range(len(jobs)), 0)
    try:
        while any(job.state in ("waiting", "running") for job in jobs):
            time.sleep(LOOK_SECONDS)
            # before the runs are looked at: a job that ends in between has written its status
            queue = queued(number)
            for index, job in enumerate(jobs):
                absent[index] = 0 if index in queue else absent[index] + 1
                _look(job, in_queue=absent[index] < GONE_AFTER)
                if told.get(job.number, "waiting") != job.state:
                    told[job.number] = job.state
                    because = f" ({job.note})" if job.note else ""
                    console.print(
                        f"#{job.number} {job.state:11} {job.words}{because}", soft_wrap=True
                    )
    except KeyboardInterrupt:
        console.print(
            f"left to Slurm: squeue -j {number} shows the jobs, scancel {number} ends them",
            soft_wrap=True,
        )
        raise SystemExit(130) from None


def queued(number: str) -> set[int]:
    """Indices of an array's tasks that wait, run or are being queued again. (sacct needs a
    database; squeue does not.)
    """
    command = ["squeue", "-h", "-r", "-j", number, "-t", "all", "-o", "%K %T"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    over = (
        "COMPLETED",
        "FAILED",
        "CANCELLED",
        "TIMEOUT",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "DEADLINE",
        "BOOT_FAIL",
    )
    tasks = [line.split() for line in lines if line.split()[-1] not in over]
    # a job that is no array has no index
    return {int(index) if index.isdigit() else 0 for index, _ in tasks}


def _look(job: Job, in_queue: bool) -> None:
    """State of a job: what its run says; where Slurm no longer has it and the run is not over, it
    failed.
    """
    state = (job.run.status() or {}).get("state")
    if state in ("finished", "diverged"):
        job.state = "done"
    elif in_queue:
        job.state = "running" if state == "running" else "waiting"
    else:
        job.state, job.note = (
            "failed",
            (
                f"the run is {state or 'not begun'} and Slurm has no job of it; see "
                f"{job.log.parent}/slurm"
            ),
        )
