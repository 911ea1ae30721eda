"""Lightning's Trainer as a run needs it."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, SimpleProfiler
from omegaconf import DictConfig

from isometry.config.compose import resolved
from isometry.config.targets import instantiate
from isometry.console import console
from isometry.errors import UserError
from isometry.runs.directory import RunDirectory
from isometry.training.callbacks import (
    AtomicCheckpointIO,
    CallbackGroup,
    Interruption,
    Progress,
    ResumeState,
    checkpoints,
    early_stopping,
)


def make_profiler(name: str | None, run: RunDirectory) -> Profiler | None:
    """Lightning's profiler, whose table goes to `fit-profile.txt` in the run directory."""
    if name is None:
        return None
    console.print(f"profile: {run.path / 'fit-profile.txt'}", soft_wrap=True)
    kind = {"simple": SimpleProfiler, "advanced": AdvancedProfiler}[name]
    return kind(dirpath=run.path, filename="profile")


def build_trainer(
    config: DictConfig, run: RunDirectory, loggers: list[Any], callbacks: list[Callback]
) -> Trainer:
    """Lightning's Trainer with our callbacks, and checkpoints that are written whole."""
    own = [*callbacks, ResumeState(), Progress()]
    stopping = early_stopping(**config.callbacks.early_stopping)
    saving = checkpoints(run.checkpoints, **config.callbacks.checkpoints)
    try:
        return instantiate(  # type: ignore[no-any-return]
            {
                **resolved(config)["trainer"],
                "profiler": make_profiler(config.trainer.profiler, run),
            },
            logger=loggers or False,
            # who leaves at the end of an epoch does so when all others have seen it
            callbacks=[
                CallbackGroup([*own, *stopping, *saving, Interruption(run.last_checkpoint)])
            ],
            plugins=[AtomicCheckpointIO()],
            default_root_dir=str(run.path),
        )
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"trainer: {error}") from error
