"""What every test shares: one thread, a folder of its own for runs, one decoded data set for the
session.
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
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

import isometry.training.run  # noqa: F401  once in this process, and not in each that `typed` forks
from isometry import cli
from isometry.config.compose import compose

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for decoded data sets that all tests of a process share."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def make_config(tmp_path: Path, data_cache: Path) -> Callable[..., DictConfig]:
    """Composes a config that writes below the test's own folder, without W&B, 3 steps long, unless
    overridden.
    """

    def make(*overrides: str) -> DictConfig:
        small = [
            "pictures=false",
            "logger=csv",
            "trainer=cpu",
            "trainer.max_steps=3",
            "callbacks.signals.every_n_steps=1",
        ]
        return compose(
            "train", [f"paths.runs={tmp_path}/runs", f"paths.data={data_cache}", *small, *overrides]
        )

    return make


Done = subprocess.CompletedProcess[str]


@pytest.fixture
def typed() -> Callable[..., Done]:
    """Runs `isometry ...` as a process of its own, in a folder and an environment, without
    importing everything again.

    The process is a fork of this one: for what needs a fresh interpreter there is `subprocess`.
    """

    def run(*arguments: str, cwd: Path, timeout: float = 120, **environment: str) -> Done:
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            with warnings.catch_warnings():
                # of later Pythons: a fork beside threads
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
            if not child:
                _become(["isometry", *arguments], cwd, environment, out.fileno(), err.fileno())
            code = _exit_code(child, timeout)
            out.seek(0), err.seek(0)
            return Done(arguments, code, out.read(), err.read())

    return run


def _become(
    words: list[str], cwd: Path, environment: Mapping[str, str], out: int, err: int
) -> None:
    """In the child: nothing of pytest's is left, and the command decides how the process ends."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(out, 1), os.dup2(err, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        os.chdir(cwd)
        os.environ.update(environment)
        sys.path[:0] = [
            folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder
        ]
        logging.getLogger().handlers.clear()
        warnings.resetwarnings()
        sys.argv = words
        code = cli.run(words)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def _exit_code(child: int, timeout: float) -> int:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError(f"not over after {timeout} s")
