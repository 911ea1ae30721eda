"""What a test of a command needs: the command itself, and the run that it left."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from isometry.runs.directory import RunDirectory

ISOMETRY = str(Path(sys.executable).parent / "isometry")
"""The console script, for tests that need a fresh process."""

ROOT = Path(__file__).parents[2]
"""The checkout."""


def run_of(summary: Mapping[str, Any], config: DictConfig) -> RunDirectory:
    """The directory of the run that `train(config)` has summed up."""
    return RunDirectory(Path(config.paths.runs) / summary["study"] / summary["run_id"])
