"""Checkpoints `last` and `best`, written whole, loadable with torch's `weights_only`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from isometry.runs.files import write_bytes


class AtomicCheckpointIO(TorchCheckpointIO):
    """A checkpoint appears under its name when it is complete and synced, never before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(Path(path), buffer.getvalue())


def checkpoints(folder: Path, every_n_steps: int | None, every_n_epochs: int) -> list[ModelCheckpoint]:
    """`best.ckpt` (highest validation accuracy) and `last.ckpt`.

    Args:
        folder: `checkpoints/` of the run.
        every_n_steps: write `last` after so many optimizer steps; None: after epochs.
        every_n_epochs: write both after so many epochs.
    """
    when: dict[str, Any] = {"every_n_train_steps": every_n_steps} if every_n_steps else {"every_n_epochs": every_n_epochs}
    common: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False, "auto_insert_metric_name": False}
    best = ModelCheckpoint(
        filename="best",
        monitor="val_accuracy",
        mode="max",
        every_n_epochs=every_n_epochs,
        save_on_train_epoch_end=False,  # after a validation; a run cut short within its first epoch has none
        **common,
    )
    last = ModelCheckpoint(filename="last", save_on_train_epoch_end=None if every_n_steps else True, **when, **common)
    return [best, last]
