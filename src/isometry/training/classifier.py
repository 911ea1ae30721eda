"""The LightningModule: a network, a loss and an optimizer. It measures nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from isometry.errors import bad_value
from isometry.training.epoch_sums import EpochSums, share_of


def _mean_squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    """Against one-hot targets; the mean over examples and classes."""
    return F.mse_loss(logits, F.one_hot(labels, logits.shape[1]).to(logits.dtype))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "mse": _mean_squared_error,
}


def log_scalars(trainer: Trainer, values: dict[str, float]) -> None:
    """Hand scalars to the loggers now, at the number of optimizer steps taken.

    Lightning would hand on an epoch's metrics only after the checkpoint of that epoch has been
    written, so that a process killed between the two loses them; and in float32.
    """
    for logger in trainer.loggers:
        logger.log_metrics({**values, "epoch": trainer.current_epoch}, step=trainer.global_step)


def window(trainer: Trainer, batch_idx: int) -> int:
    """How many micro-batches are accumulated in the optimizer step of a batch: fewer at the end of
    an epoch.
    """
    full = trainer.accumulate_grad_batches
    batches = trainer.num_training_batches
    rest = int(batches % full) if math.isfinite(batches) else 0
    return rest if rest and batch_idx >= batches - rest else full


PLAIN = frozenset({"_current_fx_name"})
"""Attributes that are set in every step and never hold a parameter or a module."""


class Classifier(LightningModule):
    """Trains a network on (images, labels) batches.

    Args:
        network: logits from images.
        make_optimizer: parameters to optimizer.
        make_scheduler: (optimizer, total steps) to a scheduler stepped after each optimizer step;
            None for a constant rate.
        loss: a key of `LOSSES`.

    Attributes:
        sums: loss and accuracy of the epoch in progress, by stage.
        examples: how many the latest metrics of a stage are of.
        metrics: the latest value of each metric.
        clip: changes the gradients of a network before each update; None: Lightning's clipping.
    """

    clip: Callable[[nn.Module], None] | None = None

    def __init__(
        self,
        network: nn.Module,
        make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        make_scheduler: Callable[[torch.optim.Optimizer, int], torch.optim.lr_scheduler.LRScheduler]
        | None = None,
        loss: str = "cross_entropy",
    ):
        super().__init__()
        if loss not in LOSSES:
            raise bad_value("loss", loss, f"allowed are {', '.join(LOSSES)}")
        self.network = network
        self.loss_function = LOSSES[loss]
        self.make_optimizer = make_optimizer
        self.make_scheduler = make_scheduler
        self.sums: dict[str, EpochSums] = {}
        self.examples: dict[str, int] = {}
        self.metrics: dict[str, float] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the running hook's name some forty times a step; through nn.Module's own
        # setter, which looks for parameters and submodules, that is 3 % of the step of a small
        # network
        if name in PLAIN:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def setup(self, stage: str) -> None:
        # Lightning reads a checkpoint before it gives the module its type of numbers: float64
        # weights would be rounded
        self.trainer.precision_plugin.convert_module(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self.network(images)
        loss = self.loss_function(logits, labels)
        self._count("train", logits, labels, loss)
        return self._of_window(loss, batch_idx)

    def _of_window(self, loss: Tensor, batch_idx: int) -> Tensor:
        """Lightning divides every loss by the accumulation factor; in a shorter window the sum
        would be less than a mean.
        """
        if self._trainer is None or self.trainer.accumulate_grad_batches == 1:
            return loss
        return loss * (self.trainer.accumulate_grad_batches / window(self.trainer, batch_idx))

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if self.clip is not None:
            self.clip(self.network)
            return
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        logits = self.network(images)
        self._count(stage, logits, labels, self.loss_function(logits, labels))

    # `self.log` in a step costs 0.3 ms a key; sums stay on the device and are logged once an epoch
    def _count(self, stage: str, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        self.sums.setdefault(stage, EpochSums()).add(logits, labels, loss)

    def _log_totals(self, stage: str) -> None:
        sums = self.sums.pop(stage, None)
        if sums is None:
            return
        totals = sums.totals()
        if totals is None:  # no example was this process's
            totals = torch.zeros(3, dtype=torch.float64, device=self.device)
        loss, correct, count = self.trainer.strategy.reduce(totals, reduce_op="sum").tolist()
        values = {f"{stage}_loss": loss / count, f"{stage}_accuracy": correct / count}
        self.metrics |= values
        self.examples[stage] = int(count)
        self.log_dict(values, logger=False)  # for callbacks that monitor
        log_scalars(self.trainer, values)

    def on_train_epoch_end(self) -> None:
        self._log_totals("train")

    def on_validation_epoch_end(self) -> None:
        self._log_totals("val")

    def on_test_epoch_end(self) -> None:
        self._log_totals("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = {stage: sums.shares().cpu() for stage, sums in self.sums.items()}
        checkpoint["classifier"] = {"totals": kept, "metrics": dict(self.metrics)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["classifier"]
        self.sums = {
            stage: EpochSums(share_of(shares).to(self.device))
            for stage, shares in state["totals"].items()
        }
        self.metrics = dict(state["metrics"])

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        if self.make_scheduler is None:
            return optimizer
        scheduler = self.make_scheduler(optimizer, int(self.trainer.estimated_stepping_batches))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
