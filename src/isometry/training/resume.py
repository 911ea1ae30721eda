"""Going on with a run from its own directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from isometry.errors import UserError, bad_value
from isometry.runs.directory import RunDirectory
from isometry.runs.metrics import MetricsFile
from isometry.runs.signal_store import SignalStore


def frozen_config(folder: Path, key: str = "resume") -> DictConfig:
    """The config of a run directory, as it was when the run began.

    Raises:
        UserError: where the folder is no run directory, or other overrides stand beside `resume=`.
    """
    path = RunDirectory(folder).config
    if not path.is_file():
        raise bad_value(key, folder, "is not a run directory: it has no config.yaml")
    others = [
        text
        for text in _overrides()
        if not text.startswith((f"{key}=", "checkpoint=", "split=", "hydra."))
    ]
    if others:
        raise UserError(
            f"{key}={folder}: the run's own config is used; leave out {', '.join(others)}"
        )
    try:
        config = OmegaConf.load(path)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise bad_value(key, folder, f"its config.yaml cannot be read ({error})") from error
    if not isinstance(config, DictConfig) or not {"model", "data", "trainer", "seed"} <= set(
        config
    ):
        raise bad_value(key, folder, "its config.yaml is not the config of a run")
    _refuse_interpolations(config, key, folder)
    return config


def _refuse_interpolations(config: DictConfig, key: str, folder: Path) -> None:
    """A run's config holds plain values: `${oc.env:X}` in a stranger's would read what is here, and
    log it there.
    """
    plain = OmegaConf.to_container(config, resolve=False)
    found = [text for text in _texts(plain) if "${" in text]
    if found:
        words = f"its config.yaml holds {found[0]!r}; the config of a run has no interpolations"
        raise bad_value(key, folder, words)


def _texts(node: Any) -> Iterator[str]:
    """All strings of nested containers, keys included."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for name, value in node.items():
            yield from _texts(name)
            yield from _texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value)


def _overrides() -> list[str]:
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def load_checkpoint(path: Path, key: str = "checkpoint") -> dict[str, Any]:
    """The content of a checkpoint, tensors and plain containers only.

    Raises:
        UserError: where the file is missing or no checkpoint.
    """
    if not path.is_file():
        raise bad_value(key, path, "no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever unpickling a stranger's bytes runs into
        raise bad_value(key, path, f"is not a checkpoint ({type(error).__name__})") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise bad_value(key, path, "is not a checkpoint of a training")
    return content


def checkpoint_step(path: Path) -> int:
    """The optimizer steps that had been taken when a checkpoint was written."""
    return int(load_checkpoint(path, "resume")["global_step"])


def keep_before(run: RunDirectory, step: int) -> None:
    """Drop the signals at or after a checkpoint's step, and the metrics after it: they will be
    measured again.
    """
    SignalStore(run.signals).drop_from(step)
    metrics = MetricsFile(run.metrics)
    if metrics.rows:
        metrics.drop_from(step)
        metrics.flush()
