"""Which of a training's two limits ends it: `max_epochs` or `max_steps`."""

from __future__ import annotations

import math

from lightning.pytorch import Callback, LightningModule, Trainer


class OneLimit(Callback):
    """Takes `max_steps` away where `max_epochs` comes first.

    With `max_steps` set, Lightning's fit loop takes an epoch at whose end a checkpoint was written
    for one that is unfinished, ends it again after a resume, and so trains an epoch too few.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        both = trainer.max_steps != -1 and trainer.max_epochs not in (None, -1)
        if stage == "fit" and both and steps_of_epochs(trainer) <= trainer.max_steps:
            trainer.fit_loop.epoch_loop.max_steps = -1


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
