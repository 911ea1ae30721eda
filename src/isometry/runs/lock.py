"""One process trains a run: `lock.json` names its owner, a heartbeat shows that it lives, and who
has lost the lock writes no more.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from isometry.errors import UserError
from isometry.runs.files import LOCKING, STALE, is_regular, only_if

BEAT_SECONDS = 5.0
WATCH_SECONDS = 2 * BEAT_SECONDS
"""How long a heartbeat is waited for before its owner counts as gone, on the waiting process's own
clock: those of two hosts differ.
"""
LOOK_SECONDS = 0.2


class RunBusy(UserError):
    """Another process is training this run, or has just done so."""


class LockLost(UserError):
    """The run is another process's now, or its folder is gone: nothing more is written there."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock.

    Attributes:
        token: drawn by the owner; a lock is its own if this stands in it.
        host, pid: for people.
        machine: where `pid` means something, `this_machine()` of the owner.
        started: of the process, `process_start`.
    """

    token: str
    host: str
    pid: int
    machine: str
    started: str | None

    @classmethod
    def this_process(cls) -> Owner:
        pid = os.getpid()
        return cls(uuid.uuid4().hex, socket.gethostname(), pid, this_machine(), process_start(pid))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


UNKNOWN = Owner("", "an unknown host", 0, "", None)
"""Of a lock file that cannot be read: it lives by its heartbeat."""


class RunLock:
    """`lock.json` of a run directory, held while the run trains; meanwhile this process writes into
    the directory only if the lock is still its own.

    Args:
        folder: the run directory, which must exist.
    """

    def __init__(self, folder: Path):
        self.path = folder / "lock.json"
        self.owner = Owner.this_process()
        self._held = ExitStack()

    def acquire(self) -> None:
        """Take the lock, over that of a dead owner if there is one.

        Raises:
            RunBusy: while a living process holds it.
        """
        for _ in range(10):
            if self._create():
                self._hold()
                return
            owner = living_owner(self.path)
            if owner is not None:
                raise RunBusy(f"is being trained by {owner}")
            self._remove_stale()
        raise RunBusy("is being taken over by another process")

    def _create(self) -> bool:
        """Linking a finished file into place is atomic, and no reader ever sees half a lock."""
        temporary = self.path.with_name(f"{LOCKING}{self.owner.token}.json")
        temporary.write_text(json.dumps(asdict(self.owner)))
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
        stale = read_owner(self.path)
        aside = self.path.with_name(f"{STALE}{self.owner.token}.json")
        with suppress(FileNotFoundError):
            self.path.rename(aside)
            if read_owner(aside) != stale:  # a new owner came in between: give it back
                with suppress(FileExistsError):
                    os.link(aside, self.path)
            aside.unlink()

    def _hold(self) -> None:
        own = os.open(self.path, os.O_RDONLY)
        done = threading.Event()
        beats = threading.Thread(target=_beat, args=(own, done), daemon=True)
        beats.start()
        self._held.callback(os.close, own)
        self._held.callback(beats.join)
        self._held.callback(done.set)
        self._held.enter_context(only_if(self.path.parent, self.check))

    def check(self) -> None:
        """Ask whether the lock is still this one's.

        Raises:
            LockLost: where it is not.
        """
        check_token(self.path.parent, self.owner.token)

    def release(self) -> None:
        """Give the lock back, if it is still this one's."""
        self._held.close()
        if read_owner(self.path) == self.owner:
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


def _beat(own: int, done: threading.Event) -> None:
    """Touch a file that is open, wherever its name points meanwhile."""
    while not done.wait(BEAT_SECONDS):
        with suppress(OSError):  # its disk is away for a while
            os.utime(own)


def check_token(folder: Path, token: str) -> None:
    """Ask whether the run is still locked by the owner with this token.

    Raises:
        LockLost: where it is not.
    """
    owner = read_owner(folder / "lock.json")
    if owner is None:
        raise LockLost(f"{folder}: the run was removed while it trained; nothing more is written")
    if owner.token != token:
        raise LockLost(f"{folder}: {owner} trains this run now; this process writes no more")


def read_owner(path: Path) -> Owner | None:
    """Who stands in a lock file; None where there is none (any more)."""
    if not path.is_symlink() and not path.exists():
        return None
    try:
        return Owner(**json.loads(path.read_text())) if is_regular(path) else UNKNOWN
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError):
        return UNKNOWN


def living_owner(path: Path) -> Owner | None:
    """Who holds a lock and lives: on this machine the process tells at once, elsewhere the
    heartbeat does, within `WATCH_SECONDS`.
    """
    owner = read_owner(path)
    if owner is None:
        return None
    if owner.machine == this_machine():
        started = process_start(owner.pid)
        return owner if started is not None and started == owner.started else None
    return owner if _beats(path) else None


def foreign_owner(folder: Path) -> Owner | None:
    """Who holds the lock of a run on another machine, if somebody does: it is watched for a
    while.
    """
    owner = read_owner(folder / "lock.json")
    return None if owner is None or owner.machine == this_machine() else owner


def _beats(path: Path) -> bool:
    """Whether a lock file is touched or replaced while this process watches."""
    first = _touched(path)
    deadline = time.monotonic() + WATCH_SECONDS
    while first is not None and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        now = _touched(path)
        if now != first:
            return now is not None
    return False


def _touched(path: Path) -> tuple[int, int] | None:
    """Which file it is and when it was touched. Opened for it: a network file system may answer
    from its memory otherwise.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK  # whatever lies there: nothing is waited for
    try:
        descriptor = os.open(path, flags)
    except OSError:
        return None
    status = os.fstat(descriptor)
    os.close(descriptor)
    return status.st_ino, status.st_mtime_ns


def this_machine() -> str:
    """Where a process number means one process: host, boot of its kernel, and namespace (a
    container has its own numbers under the host's name).
    """
    words = [socket.gethostname()]
    with suppress(OSError):  # no Linux
        words.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        words.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(words)


def process_start(pid: int) -> str | None:
    """When a process of this machine began, in kernel ticks, so that a pid that was used again is
    not mistaken; None if dead.
    """
    if not os.path.isdir("/proc/self"):
        return _exists(pid)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]


def _exists(pid: int) -> str | None:
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
    owner = living_owner(folder / "lock.json")
    return None if owner is None else str(owner)
