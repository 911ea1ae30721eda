"""Whether this process is one of several that train together."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from types import FrameType
from typing import Any

PARENT = os.getppid()
"""Who started this process."""

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, `kill`, and a terminal that is gone (a dropped ssh)."""


GRACE_SECONDS = 10.0
"""How long an orphan may take to stop."""


def inside_launcher() -> bool:
    """Whether several processes were started together: by torchrun, or by srun with several
    tasks. (An allocation for several tasks, in whose shell somebody types, is not srun.)
    """
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    return "TORCHELASTIC_RUN_ID" in os.environ or tasks > 1


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return (
        int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0
        or not inside_launcher()
    )


def launcher_is_gone() -> bool:
    """Whether the launcher of processes that train together has died: what then goes wrong in one
    is no failure of the run.
    """
    return inside_launcher() and os.getppid() != PARENT


def end_with_parent() -> None:
    """Stop as on Ctrl-C when the process that made this one through `multiprocessing` has died: it
    is the one that Ctrl-C and `kill` reach.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(GRACE_SECONDS)
        os._exit(130)

    threading.Thread(target=watch, daemon=True).start()


def on_signals(
    numbers: Sequence[int], handler: Callable[[int, FrameType | None], Any]
) -> dict[int, Any]:
    """Handle signals, but for those that whoever started this process has it ignore (`nohup`);
    returns what handled them before.
    """
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}
