"""Checkpoints `last` and `best`, written whole, loadable with torch's `weights_only`; and early
stopping.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from isometry.errors import Damaged
from isometry.runs.files import write_bytes
from isometry.training.callbacks.windows import between_steps


def save_whole(content: Any, path: Path) -> None:
    """`torch.save`, whole or not at all; the folder is made."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def load_intact(path: Path) -> Any:
    """What `save_whole` has written, on the CPU: tensors and plain containers.

    Raises:
        Damaged: where it is something else, or a checksum in it is wrong (torch writes one for each
            tensor, and does not look at it).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            torn = archive.testzip()
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise Damaged(f"{path}: no such file") from None
    except Exception as error:  # torch raises whatever unpickling a stranger's bytes runs into
        raise Damaged(f"{path}: is not a checkpoint ({type(error).__name__})") from error
    if torn is not None:
        raise Damaged(f"{path}: is damaged (the checksum of {torn} is wrong)")
    return content


class AtomicCheckpointIO(TorchCheckpointIO):
    """A checkpoint appears under its name when it is complete and synced, never before."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        save_whole(checkpoint, Path(path))


class LastCheckpoint(Checkpoint):
    """`last.ckpt` every so many optimizer steps or epochs.

    A save that falls on the last batch of an epoch, or of the training, waits until the epoch's
    validation and metrics are done: a resume from in between would not repeat them (Lightning takes
    the epoch for finished, or has no step left to finish it with).

    Args:
        path: of the checkpoint.
        every_n_steps: optimizer steps between saves; None: after epochs.
        every_n_epochs: epochs between saves, where `every_n_steps` is None.
    """

    def __init__(self, path: Path, every_n_steps: int | None, every_n_epochs: int):
        self.path = path
        self.every_n_steps = every_n_steps
        self.every_n_epochs = every_n_epochs
        self.saved_at = -1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (
            self.every_n_steps
            and trainer.global_step % self.every_n_steps == 0
            and between_steps(trainer)
            and not trainer.is_last_batch
            and trainer.global_step != trainer.max_steps
        ):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every_n_steps or (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step != self.saved_at:
            self.saved_at = trainer.global_step
            trainer.save_checkpoint(self.path)


class BestCheckpoint(ModelCheckpoint):
    """Lightning's, except that it knows its best checkpoint again in a run directory that was
    moved or copied: Lightning forgets the score where the folder is another one.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        here = {"dirpath": self.dirpath}
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            here[key] = state_dict[key] and self._here(state_dict[key])
        best = {self._here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **here, "best_k_models": best})

    def _here(self, path: str) -> str:
        return str(Path(str(self.dirpath)) / Path(path).name)


class RememberedStopping(EarlyStopping):
    """Lightning's, except that a stop holds in a run that was cut short between it and the end."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True


def checkpoints(folder: Path, every_n_steps: int | None, every_n_epochs: int) -> list[Checkpoint]:
    """`best.ckpt` (highest validation accuracy) and `last.ckpt`.

    Args:
        folder: `checkpoints/` of the run.
        every_n_steps: write `last` after so many optimizer steps, and after epochs; None: only
            after epochs.
        every_n_epochs: write both after so many epochs.
    """
    best = BestCheckpoint(
        dirpath=folder,
        filename="best",
        monitor="val_accuracy",
        mode="max",
        every_n_epochs=every_n_epochs,
        # after a validation; a run cut short within its first epoch has none
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )
    return [best, LastCheckpoint(folder / "last.ckpt", every_n_steps, every_n_epochs)]


def early_stopping(
    monitor: str, mode: Literal["min", "max"], patience: int | None, min_delta: float
) -> list[EarlyStopping]:
    """Stop when `monitor` has not improved by `min_delta` in `patience` validations; nothing where
    patience is None.
    """
    if patience is None:
        return []
    return [
        RememberedStopping(
            monitor,
            min_delta=min_delta,
            patience=patience,
            mode=mode,
            check_finite=False,
            check_on_train_epoch_end=False,  # an epoch that max_steps cuts short has no validation
        )
    ]
