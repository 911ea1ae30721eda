"""Lightning's Trainer as a run needs it."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, SimpleProfiler
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from isometry.config.compose import resolved
from isometry.config.targets import instantiate
from isometry.console import console
from isometry.errors import UserError, bad_value
from isometry.runs.directory import RunDirectory
from isometry.training.callbacks import (
    AtomicCheckpointIO,
    CallbackGroup,
    Interruption,
    OneLimit,
    Progress,
    ResumeState,
    checkpoints,
    early_stopping,
)
from isometry.training.clipping import OURS as CLIPPINGS
from isometry.training.processes import inside_launcher


def make_profiler(name: str | None, run: RunDirectory) -> Profiler | None:
    """Lightning's profiler, whose table goes to `fit-profile.txt` in the run directory."""
    if name is None:
        return None
    console.print(f"profile: {run.path / 'fit-profile.txt'}", soft_wrap=True)
    kind = {"simple": SimpleProfiler, "advanced": AdvancedProfiler}[name]
    return kind(dirpath=run.path, filename="profile")


def settings_of(config: DictConfig) -> dict[str, Any]:
    """What Lightning's Trainer is built with; a clipping of ours is the classifier's affair."""
    settings: dict[str, Any] = resolved(config)["trainer"]
    if settings["gradient_clip_algorithm"] in CLIPPINGS:
        settings |= {"gradient_clip_algorithm": None, "gradient_clip_val": None}
    return settings


def build_trainer(
    config: DictConfig, run: RunDirectory, loggers: list[Any], callbacks: list[Callback]
) -> Trainer:
    """Lightning's Trainer with our callbacks and a fork's, and checkpoints that are written
    whole.
    """
    stopping = early_stopping(**config.callbacks.early_stopping)
    saving = checkpoints(run.checkpoints, **config.callbacks.checkpoints)
    # who leaves at the end of an epoch does so when all others have seen it
    leaving = Interruption(run.last_checkpoint)
    ours = CallbackGroup(
        # the others ask for the limits
        [OneLimit(), *callbacks, ResumeState(), Progress(), *stopping, *saving, leaving]
    )
    if not inside_launcher():  # whatever the environment says: Lightning has read RANK and others
        rank_zero_only.rank = 0  # type: ignore[attr-defined]
    try:
        return instantiate(  # type: ignore[no-any-return]
            {
                **settings_of(config),
                "profiler": make_profiler(config.trainer.profiler, run),
            },
            logger=loggers or False,
            callbacks=[*build_callbacks(config), ours],
            # what surrounds a process that nobody has launched (a Slurm allocation) is not asked
            plugins=[
                AtomicCheckpointIO(),
                *([] if inside_launcher() else [LightningEnvironment()]),
            ],
            default_root_dir=str(run.path),
        )
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        raise UserError(f"trainer: {error}") from error


SECTIONS = ("signals", "checkpoints", "early_stopping")
"""Of `callbacks`, those that configure our own; each other one is a callback of a fork."""


def build_callbacks(config: DictConfig) -> list[Callback]:
    """The callbacks of a fork.

    Raises:
        UserError: for a section from which no callback can be made.
    """
    return [_callback(key, config) for key in config.callbacks if key not in SECTIONS]


def _callback(key: str, config: DictConfig) -> Callback:
    node = config.callbacks[key]
    if not OmegaConf.is_dict(node) or "_target_" not in node:
        raise bad_value(f"callbacks.{key}", node, "needs a _target_ that builds a callback")
    callback = instantiate(node)
    if not isinstance(callback, Callback):
        raise bad_value(
            f"callbacks.{key}._target_", node["_target_"], "builds no Lightning callback"
        )
    return callback
