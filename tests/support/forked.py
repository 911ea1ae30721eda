"""`isometry ...` as a process of its own, without importing everything again.

The process is a fork of the test's: for what needs a fresh interpreter there is `subprocess`.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

from isometry import cli

Done = subprocess.CompletedProcess[str]


class Forked:
    """A command that runs.

    Args:
        arguments: behind `isometry`.
        cwd: the folder it is typed in.
        environment: variables beside this process's.
    """

    def __init__(self, *arguments: str, cwd: Path, **environment: str):
        self.arguments = arguments
        self.out = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.err = tempfile.TemporaryFile("w+")  # noqa: SIM115
        with warnings.catch_warnings():
            # of later Pythons: a fork beside threads
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if not self.pid:
            words = ["isometry", *arguments]
            _become(words, cwd, environment, self.out.fileno(), self.err.fileno())
        self.code: int | None = None

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        if self.code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if ended else None
        return self.code

    def send_signal(self, number: int) -> None:
        """As `kill` does."""
        os.kill(self.pid, number)

    def finish(self, timeout: float = 120) -> Done:
        """Wait for its end.

        Raises:
            TimeoutError: when it takes longer, and is killed.
        """
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise TimeoutError(f"not over after {timeout} s")
            time.sleep(0.01)
        assert self.code is not None
        return Done(self.arguments, self.code, _content(self.out), _content(self.err))


def _content(file: tempfile._TemporaryFileWrapper[str]) -> str:
    with file:
        file.seek(0)
        return file.read()


def _become(
    words: list[str], cwd: Path, environment: Mapping[str, str], out: int, err: int
) -> None:
    """In the child: nothing of pytest's is left, and the command decides how the process ends."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        os.chdir(cwd)
        os.environ.update(environment)
        path = environment.get("PYTHONPATH", "").split(os.pathsep)
        sys.path[:0] = [folder for folder in path if folder]
        logging.getLogger().handlers.clear()
        warnings.resetwarnings()
        sys.argv = words
        code = cli.run(words)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
