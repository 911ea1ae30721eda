"""What every test shares: one thread, a folder of its own for runs, one decoded data set for the session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from isometry.config import compose

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for decoded data sets that all tests of a process share."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def make_config(tmp_path: Path, data_cache: Path) -> Callable[..., DictConfig]:
    """Composes a config that writes below the test's own folder, without W&B, 3 steps long, unless overridden."""

    def make(*overrides: str) -> DictConfig:
        small = ["pictures=false", "logger=csv", "trainer=cpu", "trainer.max_steps=3", "callbacks.signals.every_n_steps=1"]
        return compose("train", [f"paths.runs={tmp_path}/runs", f"paths.data={data_cache}", *small, *overrides])

    return make
