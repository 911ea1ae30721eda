"""What a test of a command needs: the command itself, and the run that it left."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig

from isometry.config.compose import hydra_of_our_own
from isometry.launch.fast_compose import Composer
from isometry.runs.directory import RunDirectory

ISOMETRY = str(Path(sys.executable).parent / "isometry")
"""The console script, for tests that need a fresh process."""

ROOT = Path(__file__).parents[2]
"""The checkout."""

SMALL = [
    "model.depth=3",
    "trainer=cpu",
    "logger=csv",
    "pictures=false",
    "callbacks.signals.every_n_steps=10",
]
"""A training of seconds, without an account or a picture."""


@functools.cache
def _composer() -> Composer:
    with hydra_of_our_own():
        hydra = GlobalHydra.instance().hydra
        multirun = {"run_mode": RunMode.MULTIRUN, "with_log_configuration": False}
        master = hydra.compose_config("train", [], **multirun)
        return Composer(hydra.config_loader, master)


def composed(*overrides: str) -> DictConfig:
    """The config of `isometry train` with these overrides, in a tenth of the time that Hydra takes;
    `tests/launch/test_fast_compose.py` holds the two to be the same.
    """
    return _composer().compose(overrides)


def run_of(summary: Mapping[str, Any], config: DictConfig) -> RunDirectory:
    """The directory of the run that `train(config)` has summed up."""
    return RunDirectory(Path(config.paths.runs) / summary["study"] / summary["run_id"])
