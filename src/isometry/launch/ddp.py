"""A run on several devices: the frozen config of the one run, handed to torchrun's elastic
launcher.

Lightning's own launcher replays the command line in every process, a sweep's `-m` included. Here no
child parses a command line: each reads the `config.yaml` of the run directory.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from omegaconf import DictConfig
from torch.distributed.elastic.multiprocessing.errors import record

from isometry.config.checks import processes_of
from isometry.config.machine import check_shares
from isometry.errors import UserError, bad_value
from isometry.launch.rendezvous import BACKEND, group
from isometry.runs.directory import RunDirectory
from isometry.runs.files import only_if
from isometry.runs.lock import RunLock, check_token
from isometry.scratch import scratch_folder
from isometry.training.outcome import INTERRUPTED, STOPPED, say_interrupted
from isometry.training.processes import end_with_parent, inside_launcher
from isometry.training.resume import frozen_config
from isometry.training.run import assemble, begun, execute, go_on, plan, prepare


def train(config: DictConfig) -> dict[str, Any]:
    """The verb `train`: in this process, or in as many as the run wants.

    Raises:
        UserError: before anything is written, for a config that cannot be trained.
    """
    refuse_launchers()
    run, config, decision = plan(config)
    if config.trainer.num_nodes > 1:
        words = "several machines need Slurm: -m hydra/launcher=slurm hydra.launcher.nodes=N"
        raise bad_value("trainer.num_nodes", config.trainer.num_nodes, words)
    processes = wanted_processes(config)
    if decision in ("skip", "busy") or processes == 1:
        return go_on(run, config, decision)
    check_shares(config, processes)
    prepare(config)
    with begun(config, run, decision) as lock, scratch_folder() as meeting:
        return launch(run, lock, meeting, processes, resuming=decision == "resume")


def refuse_launchers() -> None:
    """A run has one process that begins it, locks it and writes its status: this one, which starts
    the others.

    Raises:
        UserError: where somebody else has started several.
    """
    if inside_launcher():
        raise UserError(
            "isometry train starts the processes of a run itself: leave torchrun or srun out and "
            "give trainer=ddp trainer.devices=N, or -m hydra/launcher=slurm"
        )


def wanted_processes(config: DictConfig) -> int:
    """How many processes of this machine the config asks for."""
    devices = config.trainer.devices
    return max(1, torch.cuda.device_count()) if devices == "auto" else processes_of(devices)


def launch(
    run: RunDirectory, lock: RunLock, meeting: Path, processes: int, resuming: bool
) -> dict[str, Any]:
    """Train a run that has begun with so many processes; returns its summary.

    Args:
        run: its directory.
        lock: which this process holds, for them all.
        meeting: the private folder where they meet.
        processes: how many.
        resuming: whether it goes on from its last checkpoint.

    Raises:
        RuntimeError: with the first failed process's own message.
        UserError: where rank 0 could not go on and has said so.
        SystemExit: where a signal has stopped it.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=run.run_id,
        rdzv_backend=BACKEND,
        rdzv_endpoint=str(meeting),
        max_restarts=0,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=str(meeting)),  # which goes with its folder
        # a fresh process each: nothing of this one's threads or devices is inherited
        start_method="spawn",
        # Slurm's warning too; each is handed on to the processes
        signals_to_handle="SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2",
    )
    try:
        elastic_launch(config, worker)(str(run.path), lock.owner.token, str(meeting), resuming)
    except SignalException:
        stopped(run)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode == INTERRUPTED:  # the signal went to the processes alone
            stopped(run)
        status = run.status() or {}
        if status.get("state") == "interrupted":  # by a full disk, say
            raise UserError(status["reason"]) from None
        reason = f"rank {rank} failed: {failure.message or failure.exitcode}"
        run.end("failed", reason)
        raise RuntimeError(reason) from None
    return run.summary() or {}


def stopped(run: RunDirectory) -> NoReturn:
    """Leave as a single process does; rank 0 has said how to go on, unless it had to be killed."""
    if (run.status() or {}).get("state") == "running":
        run.end("interrupted", STOPPED)
        say_interrupted(run)
    raise SystemExit(INTERRUPTED) from None


def worker(path: str, token: str, meeting: str, resuming: bool) -> None:
    """One process of a run: build everything from the run's own config and train."""
    end_with_parent()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"])))
    record(train_rank)(RunDirectory(Path(path)), token, Path(meeting), resuming)


def train_rank(run: RunDirectory, token: str, meeting: Path, resuming: bool) -> None:
    """Build and train in this process; the launcher has begun the run and holds its lock. (A rank
    may come to life when the launcher is dead and the run another's.)
    """
    still_ours = partial(check_token, run.path, token)
    still_ours()
    config = frozen_config(run.path)
    with only_if(run.path, still_ours), group(meeting, config.trainer.accelerator):
        execute(assemble(config, run, resuming))
