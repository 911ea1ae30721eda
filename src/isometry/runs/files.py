"""Files that are whole or absent: written beside their place, synced, renamed."""

from __future__ import annotations

import errno
import glob
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from isometry.errors import Damaged, DiskFull, bad_value

LARGEST = 100_000_000
"""Bytes of a text file of a run."""

UNFINISHED = ".unfinished."
"""How the name of a file begins that is being written; a kill leaves it behind."""


LOCKING = f"{UNFINISHED}lock."
STALE = f"{UNFINISHED}stale."
"""Of who asks for the lock of a run, and of who takes a dead owner's away."""

FORGOTTEN_SECONDS = 3600.0
"""An unfinished file that is older belongs to nobody any more."""


def remove_unfinished(*folders: Path) -> None:
    """Sweep away what killed processes were writing in these folders, which need not exist."""
    for folder in folders:
        for path in folder.glob(f"{UNFINISHED}*"):
            if not _is_anothers_lock(path):
                path.unlink(missing_ok=True)


def _is_anothers_lock(path: Path) -> bool:
    """Whether another process may be about to ask for the lock of the run."""
    with suppress(FileNotFoundError):
        young = time.time() - path.stat().st_mtime < FORGOTTEN_SECONDS
        return young and path.name.startswith((LOCKING, STALE))
    return True


_asked_first: dict[Path, Callable[[], None]] = {}
"""Folders below which a write asks first whether it may."""


@contextmanager
def only_if(folder: Path, check: Callable[[], None]) -> Iterator[None]:
    """Inside of the block each write of this process below a folder calls `check` first, which
    raises where nothing may be written.
    """
    _asked_first[folder.resolve()] = check
    try:
        yield
    finally:
        _asked_first.pop(folder.resolve(), None)


def _ask(path: Path) -> None:
    if _asked_first:
        resolved = path.parent.resolve() / path.name
        for folder in resolved.parents:
            if folder in _asked_first:
                _asked_first[folder]()


def write_whole(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write a temporary file next to `path`, sync it and rename it there; the folder is
    made.

    A reader sees the old content or the new one, whatever happens in between; the temporary name
    starts with a dot, which readers of a directory of parts pass over.

    Raises:
        DiskFull: where there is no room, on the disk or in the user's share of it; the old content
            stays.
        LockLost: in the folder of a run that this process has lost.
    """
    _ask(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write_whole(path, fill)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"{path}: {error.strerror}; make room there, and the same command goes on"
            ) from error
        raise


@contextmanager
def written_below(key: str, folder: object) -> Iterator[None]:
    """A write that is refused inside the block becomes a message that names the setting.

    Args:
        key: of the config.
        folder: its value.

    Raises:
        UserError: for any error of the file system.
    """
    try:
        yield
    except OSError as error:
        raise bad_value(key, folder, f"cannot write there ({error})") from error


def _write_whole(path: Path, fill: Callable[[Path], object]) -> None:
    _remove_forgotten(path)
    handle, name = tempfile.mkstemp(
        prefix=f"{UNFINISHED}{path.name}.", suffix=path.suffix, dir=path.parent
    )
    os.close(handle)
    temporary = Path(name)
    try:
        fill(temporary)
        _sync(temporary)
        _ask(path)  # filling takes a while
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # gone already, unless something failed
    _sync(path.parent)


def _remove_forgotten(path: Path) -> None:
    """What a kill has left of an earlier write of this file; a younger one may be another
    process's.
    """
    for left in path.parent.glob(f"{UNFINISHED}{glob.escape(path.name)}.*"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > FORGOTTEN_SECONDS:
                left.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes whole."""
    write_whole(path, lambda temporary: temporary.write_bytes(content))


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text whole."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole, one key a line. NaN and infinities are written as Python's json does."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_text(path: Path) -> str | None:
    """The content of a UTF-8 file; None where there is none.

    Raises:
        Damaged: for a link, a pipe, what is no text, and more than a run's file holds.
    """
    if not path.is_symlink() and not path.exists():
        return None
    if not is_regular(path):
        raise Damaged(f"{path}: is a link, or no plain file")
    if path.stat().st_size > LARGEST:
        raise Damaged(f"{path}: is larger than {LARGEST:,} bytes")
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:  # removed meanwhile
        return None
    except UnicodeDecodeError as error:
        raise Damaged(f"{path}: is no text ({error.reason})") from error


def read_json(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file; None where there is no such file.

    Raises:
        Damaged: where it holds something else than a mapping.
    """
    text = read_text(path)
    if text is None:
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path}: is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise Damaged(f"{path}: holds no mapping")
    return content


def is_regular(path: Path) -> bool:
    """Whether this is a plain file: no link, and nothing (a pipe, a device) whose reading could
    wait for ever.
    """
    return path.is_file() and not path.is_symlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
