"""Whether this process is one of several that train together."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "")
    several = tasks.isdigit() and int(tasks) > 1
    return "TORCHELASTIC_RUN_ID" in os.environ or several


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


def interrupt_once(number: int, frame: FrameType | None) -> None:
    """Stop as on Ctrl-C; a terminal signals a job and so does its sweep, and the clean-up is not to
    be interrupted.
    """
    for other in STOPS:
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """What would kill this process inside of the block, before a run's end is written, interrupts
    it. What is handled already stays so.
    """
    deadly = [number for number in STOPS if signal.getsignal(number) is signal.SIG_DFL]
    main = threading.current_thread() is threading.main_thread()
    before = on_signals(deadly if main else (), interrupt_once)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def on_signals(
    numbers: Sequence[int], handler: Callable[[int, FrameType | None], Any]
) -> dict[int, Any]:
    """Handle signals, but for those that whoever started this process has it ignore (`nohup`);
    returns what handled them before.
    """
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}
