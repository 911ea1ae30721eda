"""One progress bar for the whole training, redrawn a few times a second at the most."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

REDRAW_SECONDS = 0.1


class Progress(Callback):
    """Shows steps, epoch, accuracies and the time left; silent where standard error is no terminal.

    Args:
        label: in front of the bar; a few letters, or an 80-column terminal has no room for the bar.
    """

    def __init__(self, label: str = "steps"):
        self.label = label
        self._bar: Bar | None = None
        self._drawn = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or not sys.stderr.isatty():
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Bar(
            *columns,
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        total = trainer.estimated_stepping_batches
        self._task = self._bar.add_task(
            self.label, total=None if total == float("inf") else int(total), note=""
        )
        self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if self._bar is not None and now - self._drawn > REDRAW_SECONDS:
            self._drawn = now
            self._show(trainer)

    def _show(self, trainer: Trainer) -> None:
        assert self._bar is not None
        metrics = {
            key: float(value)
            for key, value in trainer.callback_metrics.items()
            if key.endswith("accuracy")
        }
        accuracies = [
            f"{key.removesuffix('_accuracy')} {value:.3f}" for key, value in sorted(metrics.items())
        ]
        limit = (
            trainer.max_epochs
            if trainer.max_epochs and trainer.max_epochs > 0
            else trainer.current_epoch + 1
        )
        # at the end Lightning has counted one further
        epoch = min(trainer.current_epoch + 1, limit)
        note = " ".join([f"epoch {epoch}", *accuracies])
        self._bar.update(self._task, completed=trainer.global_step, note=note, refresh=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._bar is not None:
            self._show(trainer)
        self._stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
