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
from isometry.signals.norms import block_norms, known_finite, nonfinite_counts, seen_at_once, watched
from isometry.signals.parameters import LayerParameters
from isometry.signals.probe import SignalProbe, WatchProbe
from isometry.signals.snapshot import Snapshot
from isometry.signals.workspace import Workspace

_WATCH = ("watched_forward", "watched_gradient", "watched_loss")
_ROW = {name: index for index, name in enumerate((*MEASURED, *_WATCH))}


@dataclass(frozen=True)
class Divergence:
    """Where the first non-finite number appeared.

    Attributes:
        step: the optimizer step.
        kind: `forward` or `gradient`.
        layer: the lowest non-finite layer going forward, the highest going backward.
        forward_layer: the lowest layer with a non-finite preactivation, None if all are finite.
        gradient_layer: the highest layer with a non-finite weight gradient, None if all are finite.
    """

    step: int
    kind: str
    layer: int
    forward_layer: int | None = None
    gradient_layer: int | None = None


@dataclass(frozen=True)
class Flush:
    """What was recorded since the last flush, on the host.

    Attributes:
        steps: [S] the recorded steps.
        values: [S, columns, L] float64, columns as in `MEASURED`.
        measured: [S, columns, L] bool; False where a value does not exist (null).
        divergence: the first non-finite number, None while all are finite.
        first_step: the first step since the last flush, recorded or not.
        gradient_norms: [T] norm of the whole weight gradient of each step since the last flush, before clipping.
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    measured: NDArray[np.bool_]
    divergence: Divergence | None
    first_step: int
    gradient_norms: NDArray[np.float64]


class Recorder:
    """Measures a network through its layer map.

    Where several processes train together, every process must call every method at the same steps: the statistics are those
    of the global batch.

    Args:
        layers: the layer map, its parameters on the device that trains.
        flush_every: optimizer steps that fit between two flushes.
        first_step: the step at which recording starts (> 0 after a resume).
        skips_overflow: True under a gradient scaler, where a non-finite gradient is a skipped step and no divergence.
        compiled: True where the network runs under `torch.compile`.
    """

    def __init__(
        self,
        layers: Sequence[LayerSpec],
        flush_every: int = 200,
        first_step: int = 0,
        skips_overflow: bool = False,
        compiled: bool = False,
    ):
        self.layers, self.flush_every, self.first_step = list(layers), flush_every, first_step
        self.skips_overflow, self.compiled = skips_overflow, compiled
        self.weights = LayerParameters([spec.weights for spec in self.layers])
        self.biases = LayerParameters([spec.biases for spec in self.layers])
        self.device = self.weights.values[0].device
        self.workspace = Workspace(self.device)
        self.buffer = torch.full((flush_every, len(_ROW), len(self.layers)), torch.nan, dtype=torch.float64, device=self.device)
        self.rows: list[NDArray[np.bool_] | None] = []  # [columns, L] of each step in the buffer; None: not recorded
        self.before, self.after, self._initial = (Snapshot(self.weights.values) for _ in range(3))
        self._initial_norms = self.weights.norm_by_layer(self._initial.norms(self.workspace))
        self._nothing = torch.full((len(self.layers),), torch.nan, dtype=torch.float64, device=self.device)
        self._zeros = torch.zeros_like(self._nothing)
        self.buffer[:, len(MEASURED) :] = 0.0
        self.exists = self._existing()
        self._outer = np.flatnonzero(self.exists[_ROW["sample_weight_grad_rms"]]).tolist()
        self._open_step()

    @property
    def initial(self) -> list[Tensor]:
        """The weights at step 0, from which displacement is taken."""
        return self._initial.rows

    def restore_initial(self, weights: Sequence[Tensor]) -> None:
        """Take `initial` of an earlier recorder."""
        self._initial.take(list(weights))
        self._initial_norms = self.weights.norm_by_layer(self._initial.norms(self.workspace))

    def _open_step(self) -> None:
        self.probe: SignalProbe | WatchProbe | None = None
        self.forward: ForwardStatistics | None = None
        self.backprop: Tensor | None = None  # [2, L] sums over examples of ‖δ_i‖² and of ‖δ_i‖²‖x_i‖²
        self.loss: Tensor | None = None  # not finite as soon as that of one micro-batch is not
        self.watching: WatchProbe | None = None  # of the last micro-batch
        self.watched_forward: Tensor | None = None  # [L], not finite likewise; None where all is known to be finite
        self.values: dict[str, Tensor] = {}  # [L] of each column of this step
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
        if self.watching is not None:  # of the micro-batch before
            self._watch_forward(self.watching)
        if not recorded:
            self.probe = self.watching = WatchProbe(self.layers, keeps_inputs=seen_at_once(self.device))
            return self.probe
        self.probe = SignalProbe(len(self.layers), examples, self.device)
        if self.compiled:
            self.probe.prepare_taps()
        return self.probe

    @torch.no_grad()
    def after_forward(self, loss: Tensor) -> None:
        """Before the backward pass: forward statistics of this micro-batch."""
        probe = self.probe
        assert probe is not None
        loss = loss.detach().double().view(1)
        self.loss = loss if self.loss is None else self.loss + loss
        if isinstance(probe, SignalProbe):
            self.forward = self.forward or ForwardStatistics(self.layers, self.workspace, self._outer)
            self.forward.add(probe)

    @torch.no_grad()
    def _watch_forward(self, probe: WatchProbe) -> None:
        """Which layers lost their finite values."""
        now = watched(probe.preactivations())
        self.watched_forward = now if self.watched_forward is None else self.watched_forward + now

    def after_backward(self, scale: float | Tensor = 1.0) -> None:
        """After the backward pass of a micro-batch.

        Args:
            scale: the factor by which the differentiated loss was larger than the micro-batch's *summed* loss
                (1/examples for a mean, times a loss scale, over the accumulation factor).
        """
        if isinstance(self.probe, SignalProbe):
            self._add_deltas(self.probe, scale)
        self.probe = None

    @torch.no_grad()
    def _add_deltas(self, probe: SignalProbe, scale: float | Tensor) -> None:
        assert self.forward is not None
        deltas = torch.stack(probe.squared_deltas(self.workspace))
        sums = torch.stack([deltas.sum(1), self._nothing])
        if self._outer:
            inputs = torch.stack([self.forward.squared_inputs[layer] for layer in self._outer])
            sums[1, self._outer] = (deltas[self._outer] * inputs).sum(1)
        sums /= scale**2
        self.backprop = sums if self.backprop is None else self.backprop + sums

    @torch.no_grad()
    def before_update(self, recorded: bool, scale: float | Tensor = 1.0) -> None:
        """Gradients of the whole step are complete.

        Args:
            recorded: whether to record norms, or only to watch for non-finite ones.
            scale: a loss scale that the gradients still carry.
        """
        gradients, positions = self.weights.with_gradient()
        if recorded:
            self._record_forward()
            self._record_gradients(gradients, positions, scale)
        else:
            self._watch(gradients, positions, scale)

    def _watch(self, gradients: list[Tensor], positions: list[int], scale: float | Tensor) -> None:
        """The norms of the gradients, and, unless all is known to be well, which layer lost its finite values."""
        assert self.loss is not None
        assert self.watching is not None
        norms = watched(gradients)
        if self.watched_forward is not None or not (known_finite(self.loss) and known_finite(norms)):
            self._watch_forward(self.watching)
            assert self.watched_forward is not None
            self.values |= {"watched_forward": self.watched_forward, "watched_loss": self.loss}
        self.values["watched_gradient"] = self.weights.norm_by_layer(norms, positions, without=0.0) / scale

    def _record_forward(self) -> None:
        assert self.backprop is not None
        assert self.forward is not None
        for name, values in self.forward.combined().items():
            self._record(name, values)
        delta, weighted = (distributed.total(self.backprop) / self.forward.total_examples()).sqrt()
        self._record("backprop_norm", delta)
        self._record("sample_weight_grad_rms", weighted)

    def _record_gradients(self, gradients: list[Tensor], positions: list[int], scale: float | Tensor) -> None:
        self.before.take(self.weights.values)
        self._record("weight_norm", self.weights.norm_by_layer(self.before.norms(self.workspace)))
        has, flat = self.weights.has(positions), self.workspace.map(gradients, block_norms)
        norms = self.weights.norm_by_layer(flat, positions)
        self._record("weight_grad_norm", norms / scale, has)
        self._record("nonfinite", self.weights.sum_by_layer(nonfinite_counts(gradients, flat), positions), has)
        bias_gradients, bias_positions = self.biases.with_gradient()
        bias_norms = self.biases.norm_by_layer(self.workspace.map(bias_gradients, block_norms), bias_positions)
        self._record("bias_grad_norm", bias_norms / scale, self.biases.has(bias_positions))
        # a fused optimizer takes the loss scale out in its kernel, behind autograd's back
        self._unclipped = (norms, _versions(gradients) if isinstance(scale, float) else None)
        assert self.loss is not None
        forward = self.values["forward_second_moment"]  # not finite where a preactivation is not
        self.values |= {"watched_forward": forward, "watched_loss": self.loss.expand(len(self.layers))}
        self.values["watched_gradient"] = torch.where(torch.from_numpy(has).to(self.device), norms, 0.0) / scale

    @torch.no_grad()
    def after_update(self, recorded: bool) -> None:
        """The optimizer has stepped: what really changed, and the gradients it used (clipped)."""
        if recorded:
            self._record_clipped()
            self.after.take(self.weights.values)
            update = self.weights.norm_by_layer(self.after.subtract(self.before, out=self.after).norms(self.workspace))
            self._record("update_norm", update)
            self._record("update_ratio", update / self.values["weight_norm"])
            self._record_displacement()
        self._close_step(recorded)

    def _record_clipped(self) -> None:
        """Norms of the gradients as they are now; the ones known already where nobody has written to a gradient since."""
        gradients, positions = self.weights.with_gradient()
        norms, versions = self._unclipped
        if versions != _versions(gradients):
            norms = self.weights.norm_by_layer(self.workspace.map(gradients, block_norms), positions)
        self._record("weight_grad_norm_clipped", norms, self.weights.has(positions))

    @torch.no_grad()
    def weights_only(self) -> None:
        """One more row for the weights as they are now, without a batch: norm and displacement."""
        self.before.take(self.weights.values)
        self._record("weight_norm", self.weights.norm_by_layer(self.before.norms(self.workspace)))
        self._record_displacement()
        self._close_step(True)

    def _record_displacement(self) -> None:
        """‖W_t - W_0‖/‖W_0‖ of the weights in `before`."""
        distance = self.weights.norm_by_layer(self.before.subtract(self._initial, out=self.after).norms(self.workspace))
        self._record("displacement", distance / self._initial_norms)

    def _record(self, name: str, values: Tensor, has: NDArray[np.bool_] | None = None) -> None:
        self.values[name] = values
        self.written[_ROW[name]] = True if has is None else has

    def _close_step(self, recorded: bool) -> None:
        """Write the step's row of the buffer, in one operation if it is a full one."""
        row = self.buffer[len(self.rows)]
        if recorded:
            defaults = [self._nothing] * len(MEASURED) + [self._zeros] * len(_WATCH)
            torch.stack([self.values.get(name, default) for name, default in zip(_ROW, defaults, strict=True)], out=row)
        else:
            for name, values in self.values.items():
                row[_ROW[name]] = values
        self.rows.append(self.written & self.exists if recorded else None)
        self._open_step()

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
        buffer[:, len(MEASURED) :] = 0.0
        host[:, _ROW["watched_gradient"]] /= distributed.world_size()  # all processes hold the same gradient
        divergence = self._divergence(host)
        last = taken if divergence is None else divergence.step - self.first_step + 1
        recorded = [(i, mask) for i, mask in enumerate(self.rows[:last]) if mask is not None]
        chosen = [i for i, _ in recorded]
        result = Flush(
            np.array([self.first_step + i for i in chosen], dtype=np.int64),
            host[chosen][:, : len(MEASURED)],
            self._measured([mask for _, mask in recorded], host[chosen]),
            divergence,
            self.first_step,
            np.linalg.norm(host[:, _ROW["watched_gradient"]], axis=1),
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
        """The first step whose loss or gradient is not finite, and its address.

        An infinite preactivation that φ maps to a finite number (tanh, say) and that leaves no trace is none; an infinite
        activation always leaves one, in the weight gradient of the layer above.
        """
        bad = ~np.isfinite(host[:, [_ROW[name] for name in _WATCH]])
        if self.skips_overflow:
            bad[:, 1] = False
        steps = np.flatnonzero(bad[:, 1:].any(axis=(1, 2)))
        if len(steps) == 0:
            return None
        forward, gradient, _ = bad[steps[0]]
        step = self.first_step + int(steps[0])
        lowest = self.layers[int(forward.argmax())].index if forward.any() else None
        highest = self.layers[int(np.flatnonzero(gradient)[-1])].index if gradient.any() else None
        if lowest is None and highest is not None:
            return Divergence(step, "gradient", highest, lowest, highest)
        # finite logits with a non-finite loss are the readout's
        return Divergence(step, "forward", lowest or self.layers[-1].index, lowest, highest)


def _versions(tensors: list[Tensor]) -> list[tuple[int, int]]:
    """Equal before and after exactly if the tensors are the same ones and nobody has written to them."""
    return [(id(tensor), tensor._version) for tensor in tensors]
