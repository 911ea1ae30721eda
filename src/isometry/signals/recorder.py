"""The recorder: every layer's statistics in one tensor on the device, copied to the host once per flush.

One optimizer step goes through it like this (the Lightning callback does no more than call these):

    probe = recorder.begin(recorded, n)   before the forward pass of each micro-batch
    recorder.after_forward(loss)          before its backward pass
    recorder.after_backward(scale)        after it
    recorder.before_update(gradients...)  gradients complete, unscaled, not yet clipped
    recorder.after_update()               weights updated
    frame = recorder.flush()              now and then

Nothing in a step waits for the device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isometry.activations import SATURATION_SHARE
from isometry.columns import MEASURED
from isometry.networks.layer import LayerSpec
from isometry.signals.norms import differences, nonfinite_counts, norms, per_example_norms, watched
from isometry.signals.probe import SignalProbe, WatchProbe
from isometry.signals.statistics import alive_units, by_shape, merge_moments, moments, share_inside

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

    Args:
        layers: the layer map, its parameters on the device that trains.
        flush_every: optimizer steps that fit between two flushes.
        first_step: the step at which recording starts (> 0 after a resume).
    """

    def __init__(self, layers: Sequence[LayerSpec], flush_every: int = 200, first_step: int = 0):
        self.layers, self.flush_every, self.first_step = list(layers), flush_every, first_step
        self.parameters = [spec.weighted.weight for spec in self.layers]
        self.weights = [parameter.detach() for parameter in self.parameters]  # the same storage, outside of autograd
        self.device = self.weights[0].device
        self.buffer = torch.full((flush_every, len(_ROW), len(self.layers)), torch.nan, dtype=torch.float64, device=self.device)
        self.columns_measured: list[set[str] | None] = []
        self.initial = [weight.clone() for weight in self.weights]
        self.before = [torch.empty_like(weight) for weight in self.initial]
        self.exists = self._existing()
        self._open_step()

    def _open_step(self) -> None:
        self.probe: SignalProbe | WatchProbe | None = None
        self.forward_parts: list[Tensor] = []
        self.alive: list[Tensor] | None = None
        self.backprop: Tensor | None = None  # [2, L] sums over examples of ‖δ_i‖² and of ‖δ_i‖²‖x_i‖²
        self.to_watch: list[Tensor] = []
        self.watched_before: Tensor | None = None  # of the micro-batches before the last one
        self.examples: list[int] = []
        self.measured: set[str] = set()

    # ---- what exists at all -------------------------------------------------------------------------------------

    def _existing(self) -> NDArray[np.bool_]:
        """[columns, L]: False where a statistic does not exist for a layer, whatever the step."""
        exists = np.ones((len(MEASURED), len(self.layers)), dtype=bool)
        mixed = any(spec.normalization == "batch" for spec in self.layers)
        for index, spec in enumerate(self.layers):
            exists[_ROW["sample_weight_grad_rms"], index] = spec.map == "linear" and not mixed
            exists[_ROW["bias_grad_norm"], index] = spec.weighted.bias is not None
            exists[_ROW["saturation"], index] = _saturated(spec) is not None or _slope(spec) is not None
            exists[_ROW["dead"], index] = spec.kind == "hidden"
        return exists

    # ---- one step -----------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """The optimizer step that is being measured."""
        return self.first_step + len(self.columns_measured)

    def begin(self, recorded: bool, examples: int) -> SignalProbe | WatchProbe:
        """The probe for the next micro-batch of so many examples."""
        count = len(self.layers)
        if self.to_watch:
            self.watched_before = self._with_earlier(watched(self.to_watch))
        self.probe = SignalProbe(count, examples, self.device) if recorded else WatchProbe(count)
        return self.probe

    def after_forward(self, loss: Tensor) -> None:
        """Before the backward pass: forward statistics of this micro-batch, and whether all is finite."""
        probe = self.probe
        assert probe is not None
        self.to_watch = [*probe.preactivations, loss.detach()]
        if isinstance(probe, SignalProbe):
            self.examples.append(probe.preactivations[0].shape[0])
            self.forward_parts.append(self._forward_sums(probe))
            self._note_alive(probe)
            self.measured |= {"preactivation_mean", "preactivation_var", "forward_second_moment", "activation_var"}
            self.measured |= {"saturation", "dead"}

    def _forward_sums(self, probe: SignalProbe) -> Tensor:
        """[L, 5]: mean and variance of h, mean and variance of φ(z), saturated share."""
        h = by_shape(probe.preactivations, moments)
        a = by_shape(probe.activations, moments)
        return torch.cat([h, a, self._saturation(probe).unsqueeze(1)], dim=1)

    def _saturation(self, probe: SignalProbe) -> Tensor:
        share = torch.full((len(self.layers),), torch.nan, dtype=torch.float64, device=self.device)
        for intervals in {_saturated(spec) for spec in self.layers}:
            if intervals is None:
                continue
            rows = [i for i, spec in enumerate(self.layers) if _saturated(spec) == intervals]
            chosen = [probe.arguments[i] for i in rows]
            share[rows] = by_shape(chosen, functools.partial(share_inside, intervals=intervals))
        for row, spec in enumerate(self.layers):
            if (slope := _slope(spec)) is not None and spec.activation is not None:
                steep = slope(probe.arguments[row]).abs() >= SATURATION_SHARE * spec.activation.slope_max
                share[row] = 1.0 - steep.double().mean()
        return share

    def _note_alive(self, probe: SignalProbe) -> None:
        """Union over the micro-batches of the units that are not dead."""
        alive = [alive_units(a.unsqueeze(0))[0] for a in probe.activations]
        self.alive = (
            alive if self.alive is None else [torch.maximum(old, new) for old, new in zip(self.alive, alive, strict=True)]
        )

    def after_backward(self, scale: float | Tensor = 1.0) -> None:
        """After the backward pass of a micro-batch.

        Args:
            scale: the factor by which the differentiated loss was larger than the micro-batch's *summed* loss
                (1/examples for a mean, times a loss scale, over the accumulation factor).
        """
        if not isinstance(self.probe, SignalProbe):
            return
        deltas = [delta / scale for delta in self.probe.delta_norms()]
        weighted = [delta * per_example_norms(x) for delta, x in zip(deltas, self.probe.inputs, strict=True)]
        sums = torch.stack([torch.stack([value.square().sum() for value in values]) for values in (deltas, weighted)])
        self.backprop = sums if self.backprop is None else self.backprop + sums
        self.measured |= {"backprop_norm", "sample_weight_grad_rms"}
        self.probe = None

    def before_update(self, recorded: bool, scale: float | Tensor = 1.0) -> None:
        """Gradients of the whole step are complete.

        Args:
            recorded: whether to record norms, or only to watch for non-finite ones.
            scale: a loss scale that the gradients still carry.
        """
        gradients = [_gradient(parameter) for parameter in self.parameters]
        together = watched([*self.to_watch, *gradients])
        forward = self._with_earlier(together[: len(self.to_watch)])
        self._write("watched_gradient", together[len(self.to_watch) :])
        self._write("watched_forward", forward[:-1])
        self._write("watched_loss", forward[-1])
        if recorded:
            self._record_forward()
            self._record_gradients(gradients, scale)
            torch._foreach_copy_(self.before, self.weights)

    def _with_earlier(self, watched_now: Tensor) -> Tensor:
        """Non-finite where any micro-batch of the step so far was."""
        return watched_now if self.watched_before is None else watched_now + self.watched_before

    def _record_forward(self) -> None:
        counts = torch.tensor(self.examples, dtype=torch.float64, device=self.device)
        parts = torch.stack(self.forward_parts)
        h, a = merge_moments(counts, parts[..., 0:2]), merge_moments(counts, parts[..., 2:4])
        self._write("preactivation_mean", h[:, 0])
        self._write("preactivation_var", h[:, 1])
        self._write("forward_second_moment", h[:, 1] + h[:, 0].square())
        self._write("activation_var", a[:, 1])
        self._write("saturation", (counts.view(-1, 1) * parts[..., 4]).sum(0) / counts.sum())
        assert self.alive is not None
        assert self.backprop is not None
        self._write("dead", torch.stack([1.0 - alive.mean() for alive in self.alive]))
        self._write("backprop_norm", (self.backprop[0] / counts.sum()).sqrt())
        self._write("sample_weight_grad_rms", (self.backprop[1] / counts.sum()).sqrt())

    def _record_gradients(self, gradients: list[Tensor], scale: float | Tensor) -> None:
        self._write("weight_norm", norms(self.weights))
        self._write("weight_grad_norm", norms(gradients) / scale)
        self._write("nonfinite", nonfinite_counts(gradients))
        biased = [i for i, spec in enumerate(self.layers) if spec.weighted.bias is not None]
        if biased:
            bias_norms = norms([_gradient(self.layers[i].weighted.bias) for i in biased]) / scale  # type: ignore[arg-type]
            self.buffer[self._slot, _ROW["bias_grad_norm"], biased] = bias_norms
        self.measured |= {"weight_norm", "weight_grad_norm", "bias_grad_norm", "nonfinite"}

    def after_update(self, recorded: bool) -> None:
        """The optimizer has stepped: what really changed, and the gradients it used (clipped)."""
        if recorded:
            update = differences(self.weights, self.before)
            weight = self.buffer[self._slot, _ROW["weight_norm"]]
            self._write("weight_grad_norm_clipped", norms([_gradient(parameter) for parameter in self.parameters]))
            self._write("update_norm", update)
            self._write("update_ratio", update / weight)
            self._write("displacement", differences(self.before, self.initial) / norms(self.initial))
            self.measured |= {"weight_grad_norm_clipped", "update_norm", "update_ratio", "displacement"}
        self.columns_measured.append(self.measured if recorded else None)
        self._open_step()

    def weights_only(self) -> None:
        """One more row for the weights as they are now, without a batch: norm and displacement."""
        self._write("weight_norm", norms(self.weights))
        self._write("displacement", differences(self.weights, self.initial) / norms(self.initial))
        for name in _WATCH:
            self._write(name, torch.zeros(len(self.layers), dtype=torch.float64, device=self.device))
        self.columns_measured.append({"weight_norm", "displacement"})

    @property
    def _slot(self) -> int:
        return len(self.columns_measured)

    @property
    def full(self) -> bool:
        """Whether the buffer must be flushed before the next step."""
        return len(self.columns_measured) == self.flush_every

    def _write(self, name: str, values: Tensor) -> None:
        self.buffer[self._slot, _ROW[name]] = values

    # ---- to the host --------------------------------------------------------------------------------------------

    def flush(self) -> Flush:
        """Copy everything to the host in one transfer and start over with an empty buffer."""
        taken = len(self.columns_measured)
        host = self.buffer[:taken].cpu().numpy().copy()
        divergence = self._divergence(host)
        last = taken if divergence is None else divergence.step - self.first_step + 1
        rows = [i for i in range(last) if self.columns_measured[i] is not None]
        result = Flush(
            np.array([self.first_step + i for i in rows], dtype=np.int64),
            host[rows][:, : len(MEASURED)],
            self._measured_mask(rows, host),
            divergence,
        )
        self.first_step += taken
        self.columns_measured = []
        return result

    def _measured_mask(self, rows: list[int], host: NDArray[np.float64]) -> NDArray[np.bool_]:
        written = np.zeros((len(rows), len(MEASURED), len(self.layers)), dtype=bool)
        for index, row in enumerate(rows):
            for column in self.columns_measured[row] or ():
                written[index, _ROW[column]] = True
        # ‖W_0‖ = 0 leaves nothing to compare a displacement with
        zero_start = (norms(self.initial) == 0).cpu().numpy()
        written[:, _ROW["displacement"], zero_start] = False
        return written & self.exists

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


def _saturated(spec: LayerSpec) -> tuple[tuple[float, float], ...] | None:
    return None if spec.activation is None else spec.activation.saturated_intervals


def _slope(spec: LayerSpec) -> Callable[[Tensor], Tensor] | None:
    return None if spec.activation is None else spec.activation.slope


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
