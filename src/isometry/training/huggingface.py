"""What `isometry.watch` measures, in a Hugging Face `Trainer` (extra `huggingface`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from isometry.errors import UserError
from isometry.training.watch import Watched, watch


class SignalsCallback(TrainerCallback):  # type: ignore[misc]
    """`Trainer(..., callbacks=[SignalsCallback()])`.

    Args:
        folder: where `signals.parquet` is written; None: the training's `output_dir`.
        chosen: fields of `SignalOptions` that are not to be the defaults.

    Attributes:
        signals: what was recorded, as of `isometry.watch`.

    Raises:
        UserError: as `isometry.watch`; where several processes train with clipping, which the
            Trainer leaves no moment before.
    """

    signals: Watched

    def __init__(self, folder: str | Path | None = None, **chosen: Any):
        self.folder = folder
        self.chosen = chosen

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if args.world_size > 1 and args.max_grad_norm:
            raise UserError(
                f"isometry: max_grad_norm={args.max_grad_norm} on {args.world_size} processes: "
                "gradients before clipping are not seen there; max_grad_norm=0 is measured"
            )
        folder = self.folder or args.output_dir
        step = {"first_step": state.global_step, "accumulate": args.gradient_accumulation_steps}
        self.signals = watch(given["model"], folder, **step, **self.chosen)
        self.signals.__enter__()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if args.world_size > 1:
            self.signals.step()

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.signals.__exit__(None, None, None)
