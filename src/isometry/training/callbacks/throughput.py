"""Images per second of the training batches, and the learning rate, once an epoch."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from isometry.training.classifier import log_scalars


class Throughput(Callback):
    """Counts training images against the wall time between the start and the end of training
    epochs, validation excluded.
    """

    def state_dict(self) -> dict[str, Any]:
        return {"images": self.images, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.images = state_dict["images"]
        self.seconds = state_dict["seconds"]

    def __init__(self) -> None:
        self.images = 0
        self.seconds = 0.0
        self._epoch_images = 0
        self._paused = 0.0
        self._started = 0.0

    @property
    def images_per_second(self) -> float | None:
        """Over the whole training so far; None before the first epoch has ended."""
        return self.images / self.seconds if self.seconds > 0 else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # a resume in mid-epoch starts no epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_images = 0
        self._paused = 0.0
        self._started = time.perf_counter()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._epoch_images += len(batch[1]) * trainer.world_size

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_started = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused += time.perf_counter() - self._validation_started

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - self._started - self._paused
        self.images = self.images + self._epoch_images
        self.seconds = self.seconds + seconds
        values = {
            "images_per_second": self._epoch_images / seconds,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
        }
        log_scalars(trainer, values)
