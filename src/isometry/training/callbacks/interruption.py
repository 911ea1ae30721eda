"""Stopping where that is possible: at the end of a step, after a checkpoint."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from isometry.training.callbacks.leave_together import LeaveTogether
from isometry.training.callbacks.windows import between_steps
from isometry.training.processes import STOPS, inside_launcher, on_signals

HEARD = (*STOPS, signal.SIGUSR2)
"""And what Slurm sends before it takes a job's machine away (submitit asks for SIGUSR2)."""


class Interruption(Callback):
    """Ctrl-C, SIGTERM, SIGHUP and Slurm's warning stop at the end of a step, after a checkpoint has
    been written; a second one at once.

    Stopping inside a step could leave half of the weights updated. Several processes leave after
    the same step, and pass over a second signal: a terminal and the launcher each send one.

    Args:
        checkpoint: where to write.
    """

    def __init__(self, checkpoint: Path):
        self.checkpoint = checkpoint
        self.requested = False
        self._leaving = False
        self._fits = 0
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._fits += 1
        self._agreement = LeaveTogether(self._fits)
        self._previous = on_signals(self._handled(), self._request)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested and not inside_launcher():
            raise KeyboardInterrupt
        self.requested = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if between_steps(trainer):
            self._leaving |= self._agreement.leave(trainer.global_step, wish=self.requested)
            # after the last batch, validation belongs to this epoch still, and Lightning would not
            # repeat it
            if not trainer.is_last_batch:
                self._leave(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._leave(trainer)

    def _leave(self, trainer: Trainer) -> None:
        if self._leaving:
            trainer.save_checkpoint(self.checkpoint)
            raise KeyboardInterrupt

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._restore()
        if (
            inside_launcher()
        ):  # what comes now is the launcher's repetition; it kills who does not end
            for number in self._handled():
                signal.signal(number, signal.SIG_IGN)

    @staticmethod
    def _handled() -> tuple[int, ...]:
        """Only the main thread may handle signals."""
        return HEARD if threading.current_thread() is threading.main_thread() else ()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
