"""Drives the recorder through Lightning's hooks and hands what it flushes to the run directory and
the loggers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger, WandbLogger

from isometry.columns import MEASURED
from isometry.gradient_rate import gradient_rate
from isometry.layers.spec import LayerSpec
from isometry.runs.signal_store import SignalStore
from isometry.signals.flush import Divergence, Flush
from isometry.signals.recorder import Recorder
from isometry.training.callbacks.host import (
    accumulated,
    examples_in,
    measured,
    read_clipped,
    refuse,
    second_pass,
)
from isometry.training.callbacks.initial_weights import read_initial, write_initial
from isometry.training.scaling import gradient_scale, loss_scale
from isometry.training.signal_log import SignalLog
from isometry.training.signal_options import signal_options

if TYPE_CHECKING:  # half a second, which a training does not need
    from matplotlib.figure import Figure

MAX_NAMES = 2_000
"""Per-layer metric names that W&B is given at most: about so many gradient panels freeze a page."""


class Signals(Callback):
    """Measures every layer of any LightningModule that trains with one optimizer, and stores the
    rows.

    Args:
        folder: where `signals.parquet` is written; None: the folder of the Trainer's first logger
            that has one.
        store: where the rows go instead.
        initial_weights: the file of the weights at step 0; None keeps them in the checkpoints.
        chosen: fields of `SignalOptions` that are not to be the defaults.

    Raises:
        UserError: for an option that there is not. When training begins: where there is manual
            optimization, a ScriptModule, no weighted layer, or where the folder holds the rows of
            another training.
    """

    _names_warned = False

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        store: SignalStore | None = None,
        initial_weights: Path | None = None,
        **chosen: Any,
    ):
        self.options = signal_options(chosen)
        self.log_columns = list(self.options.log_columns)
        self.folder = folder
        self.kept = SignalLog(self.options, store)
        self.recorder: Recorder | None = None
        self._end_clipped: Callable[[], None] = lambda: None
        # index in its epoch of the last batch of each step since the last flush
        self._batches: list[int] = []
        self.divergent_batch: int | None = None
        self.initial_weights = initial_weights
        self._initial: list[torch.Tensor] | None = None  # of the checkpoint
        self._trainer: Trainer | None = None
        self._scaler: Any = None
        self._recorded: bool | None = None  # of the optimizer step in progress; None between steps
        self._updated = False

    # ---- life of the recorder --------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if self.options.every_n_steps is None:
            return
        refuse(pl_module)
        of_logger = next((f for f in map(_folder, trainer.loggers) if f), None)
        self.kept.begin(self.folder or of_logger, trainer.global_step)
        self._open(trainer, pl_module)
        self._end_clipped = read_clipped(pl_module, self._after_clipping)
        self._last_step = trainer.estimated_stepping_batches - 1
        for logger in self._scalar_loggers(trainer):
            if hasattr(logger, "keep_out_of_summary"):
                logger.keep_out_of_summary(self.log_columns)

    def _open(self, trainer: Trainer, pl_module: Any) -> None:
        self._trainer = trainer
        self._scaler = _scaler(trainer)
        # a step that a gradient scaler skips is no divergence whose layer is asked for
        self._replays = self._scaler is None
        network, layers = measured(pl_module)
        scaled = self._scaler is not None
        options = self.options
        fixed = (options.flush_every, trainer.global_step, scaled, options.statistics)
        before = self.recorder
        self.recorder = Recorder(network, layers, *fixed)
        if trainer.global_step > 0:
            self.recorder.restore_initial(self._known_initial(before))
        elif self.initial_weights is not None and trainer.is_global_zero:
            write_initial(self.initial_weights, self.recorder.initial)

    def _known_initial(self, before: Recorder | None) -> list[torch.Tensor] | None:
        """The weights at step 0 of a training that goes on: from its checkpoint, this process, or
        their file.
        """
        if self._initial is not None:
            return self._initial
        if before is not None:
            return before.initial
        if self.initial_weights is not None:
            return read_initial(self.initial_weights)
        warnings.warn(
            "the checkpoint holds no weights of step 0: displacement is null from here on",
            stacklevel=2,
        )
        return None

    def state_dict(self) -> dict[str, Any]:
        # Lightning asks before `on_save_checkpoint`: the alarm must have seen the steps up to here
        if self._trainer is not None:
            self._flush(self._trainer)
        return {**self.kept.state_dict(), **self._initial_state()}

    def _initial_state(self) -> dict[str, Any]:
        known = self.recorder is not None and self.recorder.prepared
        if not known or self.initial_weights is not None:
            return {}
        assert self.recorder is not None
        return {"initial": self.recorder.initial}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._initial = state_dict.get("initial") or None
        self.kept.load_state_dict(state_dict)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        # rows before the checkpoint's step would otherwise be lost to a resume
        self._flush(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        # a resume from the last step has nothing to train: the row of the final weights is written
        # all the same
        if self.recorder is None and self.options.every_n_steps is not None:
            self._open(trainer, pl_module)
            self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._end_clipped()
        self._flush(trainer)
        if self.recorder is not None and self.recorder.prepared and self.divergence is None:
            self.recorder.weights_only()
            self._flush(trainer)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self._end_clipped()

    # ---- one step --------------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.recorder is None:
            return
        if self._recorded is None:
            step = self.recorder.step
            self._recorded = step % self.options.every_n_steps == 0 or step == self._last_step  # type: ignore[operator]
        self._examples = examples_in(batch)
        self._window = accumulated(trainer, pl_module, batch_idx)
        replay = None
        if self._replays and not self._recorded:
            context = trainer.precision_plugin.train_step_context
            replay = second_pass(pl_module, batch, batch_idx, context)
        self.recorder.begin(self._recorded, self._examples, replay)

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: torch.Tensor) -> None:
        if self.recorder is not None:
            self.recorder.after_forward(loss)

    def on_after_backward(self, trainer: Trainer, pl_module: Any) -> None:
        if self.recorder is not None:
            of_mean = 1.0 / (self._examples * self._window)
            self.recorder.after_backward(loss_scale(self._scaler) * of_mean)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        if self.recorder is not None:
            self.recorder.before_update(
                bool(self._recorded), gradient_scale(self._scaler, optimizer)
            )
            self._updated = True

    def _after_clipping(self) -> None:
        if self.recorder is not None and self._updated:
            self.recorder.after_clipping(bool(self._recorded))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.recorder is None or not self._updated:
            return
        self.recorder.after_update(bool(self._recorded))
        self._batches.append(batch_idx)
        self._recorded = None
        self._updated = False
        if self.recorder.full:
            self._flush(trainer)

    # ---- what is done with a flush ---------------------------------------------------------------

    def _flush(self, trainer: Trainer) -> None:
        if self.recorder is None or not self.recorder.rows:
            return
        flush = self.recorder.flush()
        batches = self._batches
        self._batches = []
        # Lightning goes on behind a divergence until `min_epochs` and `min_steps`
        if not self.kept.take(flush, self.recorder.layers):
            return
        for logger in trainer.loggers:
            log_rates(logger, flush, self.recorder.layers)
        for logger in self._scalar_loggers(trainer):
            log_layers(logger, flush, self.recorder.layers, self.log_columns)
        if flush.divergence is not None:
            self.divergent_batch = batches[flush.divergence.step - flush.first_step]
            trainer.should_stop = True

    @property
    def divergence(self) -> Divergence | None:
        """The first non-finite number, None while all are finite."""
        return self.kept.divergence

    def frame(self) -> pd.DataFrame:
        """Everything recorded up to the last flush, a row for each (step, layer); after training,
        everything. A value that was not measured is NaN.
        """
        return self.kept.frame()

    def frame_over_time(self) -> pd.DataFrame:
        """The recurrent layers' rows, one for each (step, layer, gate, time). NaN as in `frame`."""
        return self.kept.frame_over_time()

    def plot(self) -> tuple[Figure, Figure]:
        """Profiles against depth at a few of the recorded steps, and backprop_norm over layer and
        step.
        """
        return self.kept.plot()

    def _scalar_loggers(self, trainer: Trainer) -> list[Logger]:
        """The loggers that take a scalar for each layer: W&B's pages freeze over a few thousand
        metric names.
        """
        assert self.recorder is not None
        names = len(self.log_columns) * len(self.recorder.layers)
        chosen = [
            logger
            for logger in trainer.loggers
            if names <= MAX_NAMES or not isinstance(logger, WandbLogger)
        ]
        if len(chosen) < len(trainer.loggers) and not self._names_warned:
            self._names_warned = True
            warnings.warn(
                f"{names} per-layer metrics would freeze W&B's pages (limit {MAX_NAMES}): W&B "
                "gets profiles and the heatmap "
                f"only; fewer callbacks.signals.log_columns bring the curves back",
                stacklevel=2,
            )
        return chosen


def _folder(logger: Logger) -> str | None:
    """The folder of one training's files, of loggers that have one."""
    return getattr(logger, "log_dir", None)


def _scaler(trainer: Trainer) -> Any:
    """The gradient scaler of fp16 mixed precision, None otherwise."""
    return getattr(trainer.precision_plugin, "scaler", None)


def layer_keys(columns: Sequence[str], layers: Sequence[LayerSpec]) -> list[str]:
    """`column/layer_007`, zero-padded to the depth, column by column."""
    digits = max(3, len(str(len(layers))))
    return [f"{column}/layer_{spec.index:0{digits}d}" for column in columns for spec in layers]


def log_rates(logger: Logger, flush: Flush, layers: Sequence[LayerSpec]) -> None:
    """Send the gradient rate at each recorded step to a logger."""
    hidden = [index for index, spec in enumerate(layers) if spec.kind == "hidden"]
    column = MEASURED.index("backprop_norm")
    for row, step in enumerate(flush.steps):
        if flush.measured[row, column].any():
            rate = gradient_rate(flush.values[row, column, hidden]).rate
            if math.isfinite(rate):
                logger.log_metrics({"gradient_rate": rate}, int(step))


def log_layers(
    logger: Logger, flush: Flush, layers: Sequence[LayerSpec], columns: Sequence[str]
) -> None:
    """Send the chosen columns to a logger that wants per-layer scalars, one call a step."""
    if not getattr(logger, "per_layer", True):
        return
    keys = layer_keys(columns, layers)
    chosen = [MEASURED.index(column) for column in columns]
    for row, step in enumerate(flush.steps):
        values = flush.values[row, chosen].ravel()
        measured = flush.measured[row, chosen].ravel()
        chosen_values = {
            key: float(v) for key, v, exists in zip(keys, values, measured, strict=True) if exists
        }
        logger.log_metrics(chosen_values, int(step))
