"""One job of a sweep, in a process of its own: what the child does, and what the parent knows of
it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from isometry.runs.directory import RunDirectory
from isometry.runs.lock import RunBusy, RunLock
from isometry.training.processes import STOPS, end_with_parent, interrupt_once, on_signals

State = Literal["waiting", "running", "done", "skipped", "busy", "failed", "interrupted"]

LAST_LINES = 6


@dataclass
class Job:
    """A job as the pool sees it.

    Attributes:
        number: its place in the sweep.
        words: the overrides by which it differs.
        config: its frozen config, plain containers.
        run: its run directory.
        devices: how many it wants.
        state: where it stands; `done` covers finished and diverged runs.
        note: why it was skipped, or how it failed.
        held: the devices it has.
        started: wall-clock seconds, None before it ran.
        ended: likewise.
    """

    number: int
    words: str
    config: Mapping[str, Any]
    run: RunDirectory
    devices: int
    state: State = "waiting"
    note: str = ""
    held: list[str] = field(default_factory=list)
    started: float | None = None
    ended: float | None = None
    process: BaseProcess | None = None

    @property
    def log(self) -> Path:
        """What the job printed, beside its run directory: a run that was never begun leaves
        none.
        """
        return self.run.path.parent / "logs" / f"{self.run.run_id}.log"

    def start(
        self, context: Any, task: str, held: Sequence[str], variables: Mapping[str, str]
    ) -> None:
        """Start the process on the given devices."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.held = list(held)
        self.state = "running"
        arguments = (task, dict(self.config), str(self.log), dict(variables), len(held))
        self.process = context.Process(
            target=child, args=arguments, name=f"isometry-job-{self.number}"
        )
        # the first waits until the forkserver has imported: no time of the job's
        self.process.start()
        self.started = time.time()

    def finish(self) -> None:
        """Read how it went, once the process has ended."""
        assert self.process is not None
        self.ended = time.time()
        code = self.process.exitcode
        self.process = None
        state = (self.run.status() or {}).get("state")
        if self.note:  # stopped by us: the reason stands there already
            self.state = "failed"
        elif code == 0:
            self.state = "done" if state in ("finished", "diverged") else "busy"
            self.note = "" if self.state == "done" else "left to the process that trains it"
        elif code == 130 or state == "interrupted":
            self.state = "interrupted"
            self._mark_dead()
            self.note = str((self.run.status() or {}).get("reason") or "")
        else:
            self.state = "failed"
            self.note = f"exit code {code}"
            self._mark_dead()

    def _mark_dead(self) -> None:
        """A process that was killed could not write that its run is over; a run that somebody
        trains is left alone.
        """
        with contextlib.suppress(RunBusy, FileNotFoundError), RunLock(self.run.path):
            if (self.run.status() or {}).get("state") == "running":
                self.run.end("interrupted", self.note or "stopped with the sweep")

    def last_lines(self) -> list[str]:
        """The end of the log, where an error stands."""
        if not self.log.exists():
            return []
        lines = [line.rstrip() for line in self.log.read_text(errors="replace").splitlines()]
        return [line for line in lines if line][-LAST_LINES:]

    def stop(self, number: int = signal.SIGINT) -> None:
        """Ask the process to end."""
        if self.process is not None and self.process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, number)


def child(
    task: str, config: dict[str, Any], log: str, variables: dict[str, str], slots: int
) -> None:
    """The job's own process: output to its log, devices set, then the verb's task with the frozen
    config.
    """
    os.environ.update(variables)
    on_signals(STOPS, interrupt_once)
    end_with_parent()  # the forkserver is the parent for the system, not the sweep
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import torch

    torch.set_num_threads(1 if not variables else max(1, (os.cpu_count() or 1) // 2))
    sys.exit(_call(task, config))


def _call(task: str, config: dict[str, Any]) -> int:
    """Exit code of the task: 0 done, here or elsewhere, 2 the user's mistake, 130 stopped; other
    errors go to the log.
    """
    from omegaconf import OmegaConf

    from isometry.errors import UserError

    module, function = task.split(":")
    try:
        getattr(import_module(module), function)(OmegaConf.create(config))
    except UserError as error:
        print(f"isometry: {error}", file=sys.stderr, flush=True)
        return 0 if isinstance(error, RunBusy) else 2
    except KeyboardInterrupt:
        return 130
    return 0
