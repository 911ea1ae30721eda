"""Where one optimizer step ends and the next one begins."""

from __future__ import annotations

from lightning.pytorch import Trainer


def between_steps(trainer: Trainer) -> bool:
    """At the end of a batch: whether it was the last one of its accumulation window. Gradients that
    are being accumulated are in no checkpoint.
    """
    behind = trainer.fit_loop.epoch_loop.batch_idx + 1
    return behind % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
