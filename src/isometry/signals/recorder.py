"""The recorder: every layer's statistics in one tensor on the device, copied to the host once per flush.

One optimizer step goes through it like this (the Lightning callback does no more than call these):

    probe = recorder.begin(recorded, n)   before the forward pass of each micro-batch
    recorder.after_forward(loss)          before its backward pass
    recorder.after_backward(scale)        after it
    recorder.before_update(recorded)      gradients complete, not yet clipped
    recorder.after_update(recorded)       weights updated
    flush = recorder.flush()              now and then

Nothing in a step waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isometry.columns import MEASURED
from isometry.networks.layer import LayerSpec
from isometry.signals import distributed
from isometry.signals.forward import ForwardStatistics
from isometry.signals.norms import nonfinite_counts, per_example_norms, watched
from isometry.signals.parameters import LayerParameters
from isometry.signals.probe import SignalProbe, WatchProbe

_WATCH = ("watched_forward", "watched_gradient", "watched_loss")
_ROW = {name: index for index, name in enumerate((*MEASURED, *_WATCH))}


@dataclass(frozen=True)
class Divergence:
    """Where the first non-finite number appeared.

    Attributes:
        step: the optimizer step.
        kind: `forward` or `gradient`.
        layer: the lowest non-finite layer going forward, the highest going backward.
    """

    step: int
    kind: str
    layer: int


@dataclass(frozen=True)
class Flush:
    """What was recorded since the last flush, on the host.

    Attributes:
        steps: [S] the recorded steps.
        values: [S, columns, L] float64, columns as in `MEASURED`.
        measured: [S, columns, L] bool; False where a value does not exist (null).
        divergence: the first non-finite number, None while all are finite.
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    measured: NDArray[np.bool_]
    divergence: Divergence | None


class Recorder:
    """Measures a network through its layer map.

    Where several processes train together, every process must call every method at the same steps: the statistics are those
    of the global batch.

    Args:
        layers: the layer map, its parameters on the device that trains.
        flush_every: optimizer steps that fit between two flushes.
        first_step: the step at which recording starts (> 0 after a resume).
        skips_overflow: True under a gradient scaler, where a non-finite gradient is a skipped step and no divergence.
    """

    def __init__(self, layers: Sequence[LayerSpec], flush_every: int = 200, first_step: int = 0, skips_overflow: bool = False):
        self.layers, self.flush_every, self.first_step = list(layers), flush_every, first_step
        self.skips_overflow = skips_overflow
        self.weights = LayerParameters([spec.weights for spec in self.layers])
        self.biases = LayerParameters([spec.biases for spec in self.layers])
        self.device = self.weights.values[0].device
        self.buffer = torch.full((flush_every, len(_ROW), len(self.layers)), torch.nan, dtype=torch.float64, device=self.device)
        self.rows: list[NDArray[np.bool_] | None] = []  # [columns, L] of each step in the buffer; None: not recorded
        self.initial = [weight.clone() for weight in self.weights.values]
        self.before = [torch.empty_like(weight) for weight in self.initial]
        self.exists = self._existing()
        self._open_step()

    def _open_step(self) -> None:
        self.probe: SignalProbe | WatchProbe | None = None
        self.forward = ForwardStatistics(self.layers, self.device)
        self.backprop: Tensor | None = None  # [2, L] sums over examples of ‖δ_i‖² and of ‖δ_i‖²‖x_i‖²
        self.to_watch: list[Tensor] = []
        self.watched_before: Tensor | None = None  # of the micro-batches before the last one
        self.written = np.zeros((len(MEASURED), len(self.layers)), dtype=bool)

    def _existing(self) -> NDArray[np.bool_]:
        """[columns, L]: False where a statistic does not exist for a layer, whatever the step."""
        exists = np.ones((len(MEASURED), len(self.layers)), dtype=bool)
        mixed = any(spec.normalization == "batch" for spec in self.layers)
        for index, spec in enumerate(self.layers):
            # ‖δ_i‖‖x_i‖ is the norm of one outer product: of a linear map applied once, where examples do not interact
            exists[_ROW["sample_weight_grad_rms"], index] = spec.map == "linear" and not mixed and spec.uses == 1
            exists[_ROW["saturation"], index] = spec.activation is not None and spec.activation.saturates
            exists[_ROW["dead"], index] = spec.kind == "hidden"
            if not any(weight.requires_grad for weight in spec.weights):
                exists[_ROW["sample_weight_grad_rms"], index] = False
        return exists

    # ---- one step -----------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """The optimizer step that is being measured."""
        return self.first_step + len(self.rows)

    def begin(self, recorded: bool, examples: int) -> SignalProbe | WatchProbe:
        """The probe for the next micro-batch of so many examples."""
        count = len(self.layers)
        if self.to_watch:
            self.watched_before = self._with_earlier(watched(self.to_watch))
        self.probe = SignalProbe(count, examples, self.device) if recorded else WatchProbe(count)
        return self.probe

    def after_forward(self, loss: Tensor) -> None:
        """Before the backward pass: forward statistics of this micro-batch."""
        probe = self.probe
        assert probe is not None
        self.to_watch = [*probe.preactivations, loss.detach()]
        if isinstance(probe, SignalProbe):
            self.forward.add(probe)

    def after_backward(self, scale: float | Tensor = 1.0) -> None:
        """After the backward pass of a micro-batch.

        Args:
            scale: the factor by which the differentiated loss was larger than the micro-batch's *summed* loss
                (1/examples for a mean, times a loss scale, over the accumulation factor).
        """
        if not isinstance(self.probe, SignalProbe):
            return
        deltas = self.probe.squared_deltas()
        weighted = [delta * per_example_norms(x).square() for delta, x in zip(deltas, self.probe.inputs, strict=True)]
        sums = torch.stack([torch.stack([value.sum() for value in values]) for values in (deltas, weighted)]) / scale**2
        self.backprop = sums if self.backprop is None else self.backprop + sums
        self.probe = None

    def before_update(self, recorded: bool, scale: float | Tensor = 1.0) -> None:
        """Gradients of the whole step are complete.

        Args:
            recorded: whether to record norms, or only to watch for non-finite ones.
            scale: a loss scale that the gradients still carry.
        """
        gradients, positions = self.weights.with_gradient()
        together = watched([*self.to_watch, *gradients])
        forward = self._with_earlier(together[: len(self.to_watch)])
        gradient_norms = together[len(self.to_watch) :]
        watched_gradient = self.weights.sum_by_layer(gradient_norms, positions, without=0.0)
        self._write("watched_gradient", torch.zeros_like(forward[:-1]) if self.skips_overflow else watched_gradient)
        self._write("watched_forward", forward[:-1])
        self._write("watched_loss", forward[-1])
        if recorded:
            self._record_forward()
            self._record_gradients(scale, gradient_norms)
            torch._foreach_copy_(self.before, self.weights.values)

    def _with_earlier(self, watched_now: Tensor) -> Tensor:
        """Non-finite where any micro-batch of the step so far was."""
        return watched_now if self.watched_before is None else watched_now + self.watched_before

    def _record_forward(self) -> None:
        assert self.backprop is not None
        for name, values in self.forward.combined().items():
            self._record(name, values)
        examples = self.forward.total_examples()
        delta, weighted = (distributed.total(self.backprop) / examples).sqrt()
        self._record("backprop_norm", delta)
        self._record("sample_weight_grad_rms", weighted)

    def _record_gradients(self, scale: float | Tensor, gradient_norms: Tensor) -> None:
        self._record("weight_norm", self.weights.norm_by_layer(self.weights.values))
        gradients, positions = self.weights.with_gradient()
        has = self.weights.has(positions)
        self._record("weight_grad_norm", self.weights.norm_by_layer(gradients, positions) / scale, has)
        counts = self.weights.sum_by_layer(nonfinite_counts(gradients, gradient_norms), positions)
        self._record("nonfinite", counts, has)
        bias_gradients, bias_positions = self.biases.with_gradient()
        bias_norms = self.biases.norm_by_layer(bias_gradients, bias_positions).to(self.device)
        self._record("bias_grad_norm", bias_norms / scale, self.biases.has(bias_positions))

    def after_update(self, recorded: bool) -> None:
        """The optimizer has stepped: what really changed, and the gradients it used (clipped)."""
        if recorded:
            gradients, positions = self.weights.with_gradient()
            clipped = self.weights.norm_by_layer(gradients, positions)
            self._record("weight_grad_norm_clipped", clipped, self.weights.has(positions))
            update = self._distance(self.weights.values, self.before)
            self._record("update_norm", update)
            self._record("update_ratio", update / self.buffer[len(self.rows), _ROW["weight_norm"]])
            self._record_displacement(self.before)
        self.rows.append(self.written & self.exists if recorded else None)
        self._open_step()

    def weights_only(self) -> None:
        """One more row for the weights as they are now, without a batch: norm and displacement."""
        self._record("weight_norm", self.weights.norm_by_layer(self.weights.values))
        self._record_displacement(self.weights.values)
        for name in _WATCH:
            self._write(name, torch.zeros(len(self.layers), dtype=torch.float64, device=self.device))
        self.rows.append(self.written & self.exists)
        self._open_step()

    def _record_displacement(self, weights: list[Tensor]) -> None:
        self._record("displacement", self._distance(weights, self.initial) / self.weights.norm_by_layer(self.initial))

    def _distance(self, left: list[Tensor], right: list[Tensor]) -> Tensor:
        """‖left - right‖ by layer; the difference is taken in the weights' own precision, where it is what happened."""
        return self.weights.norm_by_layer(list(torch._foreach_sub(left, right)))

    def _record(self, name: str, values: Tensor, has: NDArray[np.bool_] | None = None) -> None:
        self._write(name, values)
        self.written[_ROW[name]] = True if has is None else has

    def _write(self, name: str, values: Tensor) -> None:
        self.buffer[len(self.rows), _ROW[name]] = values

    @property
    def full(self) -> bool:
        """Whether the buffer must be flushed before the next step."""
        return len(self.rows) == self.flush_every

    # ---- to the host --------------------------------------------------------------------------------------------

    def flush(self) -> Flush:
        """Copy everything to the host in one transfer and start over with an empty buffer."""
        taken = len(self.rows)
        buffer = self.buffer[:taken]
        if distributed.world_size() > 1 and taken:
            # every process watches its own share of the batch
            buffer[:, len(MEASURED) :] = distributed.total(buffer[:, len(MEASURED) :])
        host = buffer.cpu().numpy().copy()
        divergence = self._divergence(host)
        last = taken if divergence is None else divergence.step - self.first_step + 1
        recorded = [(i, mask) for i, mask in enumerate(self.rows[:last]) if mask is not None]
        chosen = [i for i, _ in recorded]
        result = Flush(
            np.array([self.first_step + i for i in chosen], dtype=np.int64),
            host[chosen][:, : len(MEASURED)],
            self._measured([mask for _, mask in recorded], host[chosen]),
            divergence,
        )
        self.first_step += taken
        self.rows = []
        return result

    def _measured(self, masks: list[NDArray[np.bool_]], host: NDArray[np.float64]) -> NDArray[np.bool_]:
        """The masks of the recorded steps; a displacement from W_0 = 0 (0/0 or x/0) does not exist."""
        measured = np.array(masks, dtype=bool).reshape(len(masks), len(MEASURED), len(self.layers))
        finite = np.isfinite(host)
        from_zero = finite[:, _ROW["weight_norm"]] & ~finite[:, _ROW["displacement"]]
        measured[:, _ROW["displacement"]] &= ~from_zero
        return measured

    def _divergence(self, host: NDArray[np.float64]) -> Divergence | None:
        bad = ~np.isfinite(host[:, [_ROW[name] for name in _WATCH]])
        steps = np.flatnonzero(bad.any(axis=(1, 2)))
        if len(steps) == 0:
            return None
        forward, gradient, _ = bad[steps[0]]
        step = self.first_step + int(steps[0])
        if forward.any():
            return Divergence(step, "forward", self.layers[int(forward.argmax())].index)
        if gradient.any():
            return Divergence(step, "gradient", self.layers[int(np.flatnonzero(gradient)[-1])].index)
        return Divergence(step, "forward", self.layers[-1].index)  # finite logits, non-finite loss
