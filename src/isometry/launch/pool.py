"""`hydra/launcher=pool`: all jobs composed first, one fresh process a job, a queue over devices,
resumable.

Processes come from a forkserver that has imported everything once (`isometry.launch.preload`): a
job starts in 0.02 s instead of 5, and nothing of one job (CUDA memory, seeds, W&B) is left in the
next.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import wait
from typing import Any

from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf

from isometry.console import plain_console
from isometry.errors import bad_value
from isometry.launch.devices import Tokens, available, environment
from isometry.launch.job import Job
from isometry.launch.progress_table import ProgressTable, final
from isometry.launch.rehearsal import rehearse
from isometry.launch.sweep import (
    TASK,
    install_composer,
    note_failures,
    note_orders,
    plan_jobs,
    refuse_unknown_metric,
    returned,
    summary_line,
    worst_score,
)
from isometry.training.processes import GRACE_SECONDS, STOPS, on_signals

LOOK_SECONDS = 0.5
"""Between two looks at the clock; a job that ends wakes the pool at once."""


class Pool:
    """The launcher.

    Args:
        devices: `auto` (every GPU, or every CPU core), a number, or a list of indices.
        jobs_per_device: jobs that share a device.
        timeout_minutes: a job that takes longer is stopped and counts as failed; None: no limit.

    Raises:
        UserError: for a setting that is none.
    """

    def __init__(self, devices: Any, jobs_per_device: int, timeout_minutes: float | None):
        devices = OmegaConf.to_container(devices) if OmegaConf.is_config(devices) else devices
        if not (
            devices == "auto"
            or isinstance(devices, list)
            or (isinstance(devices, int) and devices >= 1)
        ):
            raise bad_value(
                "hydra.launcher.devices",
                devices,
                "must be auto, a number of at least 1, or a list of indices",
            )
        if not isinstance(jobs_per_device, int) or jobs_per_device < 1:
            raise bad_value(
                "hydra.launcher.jobs_per_device",
                jobs_per_device,
                "must be a whole number of at least 1",
            )
        if timeout_minutes is not None and not timeout_minutes > 0:
            raise bad_value(
                "hydra.launcher.timeout_minutes",
                timeout_minutes,
                "must be positive, or null for no limit",
            )
        self.devices = devices
        self.jobs_per_device = jobs_per_device
        self.timeout_minutes = timeout_minutes

    def setup(self, hydra_context: Any, config: DictConfig) -> None:
        """Called by Hydra before the sweep. The sweeper composes every job to see whether it is
        legal: it uses our composer.
        """
        self.config = config
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["isometry.launch.preload"])
        forkserver.ensure_running()  # imports while we compose
        self.composer = install_composer(hydra_context, config)
        self.worst = worst_score(config)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> list[JobReturn]:
        """Run a batch of jobs; returns when all have ended.

        Raises:
            UserError: before anything runs, for a job whose config cannot be trained.
        """
        console = plain_console(stderr=True)
        jobs = plan_jobs(self.composer, job_overrides, initial_job_idx)
        console.print(summary_line(jobs), soft_wrap=True)
        with _stoppable() as received:
            try:
                rehearse(self.context, [job for job in jobs if job.state == "waiting"])
                note_orders(jobs)
                self._run(jobs, received)
            except KeyboardInterrupt:
                stop_all(jobs)
        final(jobs, console)
        if received:
            console.print("interrupted: the same command goes on with what is left", soft_wrap=True)
            raise SystemExit(130)
        note_failures(jobs)
        refuse_unknown_metric(jobs)
        return [returned(job, self.worst) for job in jobs]

    def _run(self, jobs: Sequence[Job], received: Sequence[int] = ()) -> None:
        """Run what waits; `received` holds the signals that came meanwhile.

        Raises:
            KeyboardInterrupt: when there is one.
        """
        waiting = [job for job in jobs if job.state == "waiting"]
        if not waiting:
            return
        tokens = Tokens(
            available(self.devices, str(waiting[0].config["trainer"]["accelerator"])),
            self.jobs_per_device,
        )
        running: list[Job] = []
        with ProgressTable(jobs, len(tokens.free)) as progress:
            while waiting or running:
                if received:
                    raise KeyboardInterrupt
                while waiting and (held := tokens.take(waiting[0].devices)) is not None:
                    job = waiting.pop(0)
                    job.start(self.context, TASK, held, environment(held))
                    running.append(job)
                progress.refresh()
                wait(
                    [job.process.sentinel for job in running if job.process is not None],
                    LOOK_SECONDS,
                )
                for job in [job for job in running if self._over(job)]:
                    job.finish()
                    tokens.give_back(job.held)
                    running.remove(job)
            progress.refresh()

    def _over(self, job: Job) -> bool:
        """Whether the job's process has ended; one that takes too long is made to."""
        assert job.process is not None
        assert job.started is not None
        if job.process.exitcode is not None:
            return True
        late = time.time() - job.started - 60 * (self.timeout_minutes or float("inf"))
        if late > 0 and not job.note:
            job.note = (
                f"stopped after {self.timeout_minutes:g} minutes (hydra.launcher.timeout_minutes)"
            )
            job.stop()
        if late > GRACE_SECONDS:
            job.stop(signal.SIGKILL)
        return False


def stop_all(jobs: Sequence[Job]) -> None:
    """Ask every running job to end, then make it."""
    running = [job for job in jobs if job.process is not None]
    # a terminal's Ctrl-C has reached them as well, and a second signal would cut their clean-up
    # short
    wait_for_all(running, 1.5)
    for job in running:
        if job.process is not None and job.process.exitcode is None:
            job.stop()
    deadline = time.time() + GRACE_SECONDS
    for job in running:
        assert job.process is not None
        job.process.join(max(0.1, deadline - time.time()))
        if job.process.exitcode is None:
            job.stop(signal.SIGKILL)
            job.process.join()
        job.finish()


def wait_for_all(jobs: Sequence[Job], seconds: float) -> None:
    """Until all have ended, or the time is over."""
    deadline = time.time() + seconds
    for job in jobs:
        assert job.process is not None
        job.process.join(max(0.0, deadline - time.time()))


@contextmanager
def _stoppable() -> Iterator[list[int]]:
    """`STOPS` end the sweep; yields the signals that came. Those behind the first (a terminal and
    `timeout` each send one) are noted and cut no clean-up short.

    They are noted, too, because Python drops an exception that is raised in a finalizer: the jobs,
    which the terminal signals as well, would end, and the sweep would go on with the next ones.
    """
    received: list[int] = []

    def interrupt(number: int, frame: Any) -> None:
        received.append(number)
        if len(received) == 1:
            raise KeyboardInterrupt

    before = on_signals(STOPS, interrupt)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
