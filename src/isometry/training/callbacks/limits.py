"""Which of a training's two limits ends it: `max_epochs` or `max_steps`."""

from __future__ import annotations

import math

from lightning.pytorch import Callback, LightningModule, Trainer


class OneLimit(Callback):
    """Takes `max_steps` away while a checkpoint is read, and for good where `max_epochs` comes
    first.

    Where `max_steps` is set, Lightning's fit loop takes an epoch at whose end a checkpoint was
    written for one that is unfinished, ends it again after a resume, and so trains an epoch too few
    or writes its metrics twice.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            endless = trainer.max_epochs in (None, -1)
            counts = endless or trainer.max_steps < steps_of_epochs(trainer)
            self.max_steps = trainer.max_steps if counts else -1

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.fit_loop.epoch_loop.max_steps = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.fit_loop.epoch_loop.max_steps = self.max_steps


def steps_of_epochs(trainer: Trainer) -> float:
    """Optimizer steps of `max_epochs`; inf where the length of an epoch is not known.

    Lightning's own estimate would make the loader that trains, before its position is restored.
    """
    try:
        batches = len(trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        return math.inf
    share = trainer.limit_train_batches
    trained = min(batches, share) if isinstance(share, int) else int(batches * share)
    return int(trainer.max_epochs or 0) * math.ceil(trained / trainer.accumulate_grad_batches)
