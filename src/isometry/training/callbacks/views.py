"""Pictures while training goes on: somebody looks at a run of hours before it ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, Trainer

from isometry.runs.directory import RunDirectory
from isometry.runs.signal_store import read_signals
from isometry.training.views import show_views

EVERY_SECONDS = 60.0
"""At most so often: drawing takes a second."""


class ViewsMeanwhile(Callback):
    """Draws and sends, behind a validation, what has been recorded so far.

    Args:
        run: its directory.
        loggers: who gets the views.
        every: seconds between two times.
    """

    def __init__(self, run: RunDirectory, loggers: Sequence[Any], every: float = EVERY_SECONDS):
        self.run = run
        self.loggers = loggers
        self.every = every
        self._last = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking or time.perf_counter() - self._last < self.every:
            return
        show_views(self.run, read_signals(self.run.signals), self.loggers)
        self._last = time.perf_counter()
