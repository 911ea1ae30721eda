"""What every test shares: one thread, a folder of its own for runs, one decoded data set for the
session.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

# once in this process, and not in each that `typed` forks
import isometry.training.run  # noqa: F401
from commands import composed
from forked import Done, Forked

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
        paths = [f"paths.runs={tmp_path}/runs", f"paths.data={data_cache}"]
        return composed(*paths, *small, *overrides)

    return make


@pytest.fixture
def typed() -> Callable[..., Done]:
    """Runs `isometry ...` as a user would type it, in a folder and an environment."""

    def run(*arguments: str, cwd: Path, timeout: float = 120, **environment: str) -> Done:
        return Forked(*arguments, cwd=cwd, **environment).finish(timeout)

    return run
