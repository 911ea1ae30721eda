"""One process trains a run: a lock file with host, pid and a heartbeat, taken over when its owner
is gone.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from isometry.errors import UserError

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
"""Without a heartbeat for so long an owner on another host counts as gone; on this host its process
is looked at.
"""


class RunBusy(UserError):
    """Another process is training this run, or has just done so."""


class RunLock:
    """`lock.json` of a run directory, held while the run trains.

    Args:
        folder: the run directory, which must exist.
    """

    def __init__(self, folder: Path):
        self.path = folder / "lock.json"
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lock, over a stale one if there is one.

        Raises:
            RunBusy: while a living process holds it.
        """
        for _ in range(10):
            if self._create():
                self._beat_on()
                return
            owner = read_owner(self.path)
            if owner is not None and not is_gone(owner, self.path):
                raise RunBusy(f"is being trained by process {owner['pid']} on {owner['host']}")
            self._remove_stale()
        raise RunBusy("is being taken over by another process")

    def _create(self) -> bool:
        """Linking a finished file into place is atomic, and no reader ever sees half a lock."""
        owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": process_start(os.getpid()),
        }
        temporary = self.path.with_name(f".lock.{os.getpid()}.{threading.get_ident()}.json")
        temporary.write_text(json.dumps(owner))
        try:
            os.link(temporary, self.path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def _remove_stale(self) -> None:
        """Of several processes that find a stale lock, one moves it away; it checks what it has
        moved.
        """
        aside = self.path.with_name(f".stale.{os.getpid()}.{time.monotonic_ns()}.json")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return
        owner = read_owner(aside)
        if owner is not None and not is_gone(owner, aside) and not self.path.exists():
            aside.rename(self.path)  # a new owner came in between: give it back
            return
        aside.unlink(missing_ok=True)

    def _beat_on(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                os.utime(self.path)
            except OSError:  # the folder was removed, or its disk is away: nothing to keep alive
                return

    def release(self) -> None:
        """Give the lock back."""
        self._stop.set()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def read_owner(path: Path) -> dict[str, Any] | None:
    """What stands in a lock file, None where there is none (any more)."""
    try:
        owner: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    return owner


def is_gone(owner: dict[str, Any], path: Path) -> bool:
    """Whether the owner of a lock is dead: on this host by its process, elsewhere by its
    heartbeat.
    """
    if owner["host"] == socket.gethostname():
        started = process_start(owner["pid"])
        return started is None or (owner["started"] is not None and started != owner["started"])
    try:
        return time.time() - path.stat().st_mtime > STALE_SECONDS
    except FileNotFoundError:
        return True


def process_start(pid: int) -> str | None:
    """When a process of this host began, in kernel ticks, so that a pid that was used again is not
    mistaken; None if dead.
    """
    stat = Path(f"/proc/{pid}/stat")
    try:
        fields = stat.read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return (
            None
            if stat.parent.parent.is_dir() and os.path.isdir("/proc/self")
            else _alive_elsewhere(pid)
        )
    return None if fields[0] == "Z" else fields[19]


def _alive_elsewhere(pid: int) -> str | None:
    """On a system without /proc: whether the process exists at all."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "unknown"
    return "unknown"


def holder(folder: Path) -> str | None:
    """Who trains a run now, in words; None if nobody does."""
    path = folder / "lock.json"
    owner = read_owner(path)
    return (
        None
        if owner is None or is_gone(owner, path)
        else f"process {owner['pid']} on {owner['host']}"
    )
