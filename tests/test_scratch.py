from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from isometry.scratch import PREFIX, YOUNG_SECONDS, scratch_folder, sweep

HOLDS = """
import tempfile, time
from isometry.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "something").write_text("x")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def holder(temporary):
    """A process that has such a folder, and the folder, an hour old."""
    environment = {**os.environ, "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", HOLDS]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    older(folder)
    return process, folder


def older(folder):
    then = folder.stat().st_mtime - 60 * YOUNG_SECONDS
    os.utime(folder, (then, then))


def test_it_goes_with_its_block_and_is_its_users_alone(temporary):
    with scratch_folder() as folder:
        assert folder.parent == temporary
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "below").mkdir()
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_process_leaves_is_swept_away_by_the_next(temporary, number):
    process, folder = holder(temporary)
    with scratch_folder():
        assert (folder / "something").exists()  # it lives
    process.send_signal(number)
    process.communicate()
    with scratch_folder():
        assert not folder.exists()


def test_what_may_be_anothers_stays(temporary):
    """A folder without the file, one that was just made, and a link."""
    strange, young = (temporary / f"{PREFIX}{name}" for name in ("strange", "young"))
    target = temporary / "target"
    for folder in (strange, young, target):
        folder.mkdir()
    for folder in (young, target):
        (folder / ".alive").touch()
    for folder in (strange, target):
        older(folder)
    link = temporary / f"{PREFIX}link"
    link.symlink_to(target)
    sweep()
    assert all(path.exists() for path in (strange, young, target, link))
