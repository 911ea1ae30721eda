"""Folders in the system's temporary one, which go with their process, however it ends."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PREFIX = "isometry-"
ALIVE = ".alive"
"""A file in each such folder, locked by its owner; the kernel takes the lock from the dead."""
YOUNG_SECONDS = 60.0
"""A younger folder may not have been locked yet."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that only this user can open, for as long as the block runs; those of killed
    processes are swept away first.
    """
    sweep()
    with ExitStack() as stack:
        owned = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(owned))
        handle = os.open(folder / ALIVE, os.O_RDWR | os.O_CREAT)
        stack.callback(os.close, handle)
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield folder


def sweep() -> None:
    """Remove what killed processes of this user have left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # another user's, or gone meanwhile
            if not folder.is_symlink() and _is_left(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_left(folder: Path) -> bool:
    status = folder.stat()
    if status.st_uid != os.getuid() or time.time() - status.st_mtime < YOUNG_SECONDS:
        return False
    handle = os.open(folder / ALIVE, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True
