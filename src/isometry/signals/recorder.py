"""The recorder: every layer's statistics in one tensor on the device, copied to the host once per
flush.

One optimizer step goes through it like this (the Lightning callback does no more than call these):

    probe = recorder.begin(recorded, n)   before the forward pass of each micro-batch
    recorder.after_forward(loss)          before its backward pass
    recorder.after_backward(scale)        after it
    recorder.before_update(recorded)      gradients complete, not yet clipped
    recorder.after_clipping(recorded)     clipped, not yet used
    recorder.after_update(recorded)       weights updated
    flush = recorder.flush()              now and then

Nothing in a step waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isometry.columns import MEASURED
from isometry.errors import UserError
from isometry.layers.probed import LayerSpec, Probe
from isometry.signals import distributed
from isometry.signals.flush import Flush, Written, read
from isometry.signals.forward import ForwardPlan, ForwardStatistics
from isometry.signals.native import reductions
from isometry.signals.norms import known_finite, nonfinite_counts, seen_at_once
from isometry.signals.parameters import LayerParameters
from isometry.signals.probe import SignalProbe, WatchProbe
from isometry.signals.reductions import Fixed
from isometry.signals.rows import BACKPROP, BLOCKS, COLUMN, FORWARD, MEASURES, ROW, WATCH

Replay = Callable[[Probe], object]
"""Runs a forward pass again, with a probe."""


class Recorder:
    """Measures a network through its layer map.

    Where several processes train together, every process must call every method at the same steps:
    the statistics are those of the global batch.

    Args:
        layers: the layer map, its parameters on the device that trains.
        flush_every: optimizer steps that fit between two flushes.
        first_step: the step at which recording starts (> 0 after a resume).
        skips_overflow: True under a gradient scaler, where a non-finite gradient is a skipped step
            and no divergence.
        compiled: True where the network runs under `torch.compile`.
        keeps_tensors: True for a probe that holds all that went through it when the step is over.
    """

    def __init__(
        self,
        layers: Sequence[LayerSpec],
        flush_every: int = 200,
        first_step: int = 0,
        skips_overflow: bool = False,
        compiled: bool = False,
        keeps_tensors: bool = False,
    ):
        self.layers = list(layers)
        self.flush_every = flush_every
        self.first_step = first_step
        self.skips_overflow = skips_overflow
        self.compiled = compiled
        self.weights = LayerParameters([spec.weights for spec in self.layers])
        self.biases = LayerParameters([spec.biases for spec in self.layers])
        self.device = self.weights.values[0].device
        self.reductions = reductions(self.device)
        self._seen_at_once = seen_at_once(self.device)
        self.buffer = torch.full(
            (flush_every, len(ROW), len(self.layers)),
            torch.nan,
            dtype=torch.float64,
            device=self.device,
        )
        self.rows: list[Written | None] = []  # of each step in the buffer; None: not recorded
        self.before, self._initial = (
            Fixed(weight.clone() for weight in self.weights.values) for _ in range(2)
        )
        self._initial_norms = self.weights.norm_by_layer(self.reductions.norms(self._initial))
        self.buffer[:, MEASURES:] = 0.0
        blank = self.buffer[0, :MEASURES].clone()
        self._blanks = {names[0]: blank[: len(names)] for names in BLOCKS}
        self._record_places = self.reductions.places(self.buffer[:, :MEASURES])
        self._watch_places = {
            name: self.reductions.places(self.buffer[:, ROW[name]]) for name in WATCH
        }
        self._screens = self._seen_at_once and self.weights.one_each(range(len(self.layers)))
        self.exists = self._existing()
        self._seen = False  # a forward pass
        self._outer = np.flatnonzero(self.exists[COLUMN["sample_weight_grad_rms"]]).tolist()
        self._forward_plan = ForwardPlan(
            self.layers, self.reductions, self._outer, not compiled and not keeps_tensors
        )
        self._open_step()

    @property
    def initial(self) -> list[Tensor]:
        """The weights at step 0, from which displacement is taken: end to end, one tensor for each
        type of numbers, which is saved faster than one for each layer."""
        return [
            torch.cat([weight.flatten() for weight in alike]) for alike in self._initial_by_type()
        ]

    def restore_initial(self, packed: Sequence[Tensor] | None) -> None:
        """Take `initial` of an earlier recorder; None: it is not known, and there is no
        displacement.
        """
        if packed is None:
            self.exists[COLUMN["displacement"]] = False
            return
        for weights, values in zip(self._initial_by_type(), packed, strict=True):
            parts = values.split([weight.numel() for weight in weights])
            for weight, part in zip(weights, parts, strict=True):
                weight.copy_(part.view_as(weight))
        self._initial_norms = self.weights.norm_by_layer(self.reductions.norms(self._initial))

    def _initial_by_type(self) -> list[list[Tensor]]:
        alike: dict[torch.dtype, list[Tensor]] = {}
        for weight in self._initial:
            alike.setdefault(weight.dtype, []).append(weight)
        return list(alike.values())

    def _open_step(self) -> None:
        self.probe: SignalProbe | WatchProbe | None = None
        self.forward: ForwardStatistics | None = None
        # of the micro-batches, [2, L] sums over examples of ‖δ_i‖² and of ‖δ_i‖²‖x_i‖², and the
        # scale of δ
        self.backprop: list[tuple[Tensor, float | Tensor]] = []
        self.losses: list[Tensor] = []  # of the micro-batches
        self._held: Sequence[Tensor | None] = []
        self.watching: WatchProbe | None = None  # of the last micro-batch
        self.replays: list[Replay] = []  # of the micro-batches that went without a probe
        # [L], not finite likewise; None where all is known to be finite
        self.watched_forward: Tensor | None = None
        # rows of the buffer, under the first one's name: [L] or [k, L]
        self.values: dict[str, Tensor] = {}
        self.written: Written = {}

    def _existing(self) -> NDArray[np.bool_]:
        """[columns, L]: False where a statistic does not exist for a layer, whatever the step."""
        exists = np.ones((len(MEASURED), len(self.layers)), dtype=bool)
        mixed = any(spec.normalization == "batch" for spec in self.layers)
        tied = self.weights.tied()
        for index, spec in enumerate(self.layers):
            # ‖δ_i‖‖x_i‖ is the norm of one outer product: of a linear map applied once, where
            # examples do not interact
            once = spec.uses == 1 and not tied[index]
            exists[COLUMN["sample_weight_grad_rms"], index] = (
                spec.map == "linear" and not mixed and once
            )
            exists[COLUMN["saturation"], index] = (
                spec.activation is not None and spec.activation.saturates
            )
            exists[COLUMN["dead"], index] = spec.kind == "hidden"
            if not any(weight.requires_grad for weight in spec.weights):
                exists[COLUMN["sample_weight_grad_rms"], index] = False
        return exists

    # ---- one step --------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """The optimizer step that is being measured."""
        return self.first_step + len(self.rows)

    def begin(
        self, recorded: bool, examples: int, replay: Replay | None = None
    ) -> SignalProbe | WatchProbe | None:
        """The probe for the next micro-batch, None where nothing is to be seen.

        Args:
            recorded: whether the step is recorded, or only watched.
            examples: of the micro-batch.
            replay: runs the forward pass of this micro-batch again, with a probe. On devices whose
                numbers are seen at once a step that is only watched then goes without a probe, and
                only one that went wrong is replayed.
        """
        if self.watching is not None:  # of the micro-batch before
            self._watch_forward(self.watching)
        if recorded:
            at_once = self._forward_plan.room(len(self.backprop), examples)
            self.probe = SignalProbe(
                len(self.layers), examples, self.device, self.compiled, at_once
            )
        elif replay is not None and self._seen_at_once:
            self.replays.append(replay)
        else:
            self.probe = self.watching = WatchProbe(len(self.layers))
        return self.probe

    def after_forward(self, loss: Tensor) -> None:
        """Before the backward pass: forward statistics of this micro-batch."""
        self.losses.append(loss)
        if isinstance(self.probe, SignalProbe):
            self._require_all(self.probe)
            self.forward = self.forward or ForwardStatistics(self._forward_plan)
            self.forward.add(self.probe)  # now, while its tensors are in the cache
            if not self._seen:
                self._seen = True
                self._exclude_sequences(self.probe)

    def _require_all(self, probe: SignalProbe) -> None:
        for spec, a in zip(self.layers, probe.activations, strict=True):
            if a is probe.nothing:
                raise UserError(
                    f"layer {spec.index} ({spec.name}) took no part in the forward pass of step "
                    f"{self.step}: every "
                    f"layer of the layer map has to, at each recorded step"
                )

    def _exclude_sequences(self, probe: SignalProbe) -> None:
        """A linear map of several positions [B, T, units] gives no outer product an example, and
        has no unit to a column.
        """
        for index, (spec, a) in enumerate(zip(self.layers, probe.activations, strict=True)):
            if spec.map == "linear" and a.dim() != 2:
                self.exists[[COLUMN["sample_weight_grad_rms"], COLUMN["dead"]], index] = False

    def _watch_forward(self, probe: WatchProbe) -> None:
        """Which layers lost their finite values."""
        now = self.reductions.norms(probe.preactivations)
        self.watched_forward = now if self.watched_forward is None else self.watched_forward + now

    def after_backward(self, scale: float | Tensor = 1.0) -> None:
        """After the backward pass of a micro-batch.

        Args:
            scale: the factor by which the differentiated loss was larger than the micro-batch's
                *summed* loss (1/examples for a mean, times a loss scale, over the accumulation
                factor).
        """
        if self.probe is None:
            return
        if isinstance(self.probe, SignalProbe):
            self._add_deltas(self.probe, scale)
        self.probe = None

    def _add_deltas(self, probe: SignalProbe, scale: float | Tensor) -> None:
        assert self.forward is not None
        self.backprop.append(
            (probe.outer_products(self.reductions, self.forward.squared_inputs), scale)
        )

    def before_update(self, recorded: bool, scale: float | Tensor = 1.0) -> None:
        """Gradients of the whole step are complete.

        Args:
            recorded: whether to record norms, or only to watch for non-finite ones.
            scale: a loss scale that the gradients still carry.
        """
        if not recorded and self._all_finite(scale):
            return
        gradients, positions = self.weights.with_gradient()
        self._held = gradients
        if recorded:
            self._record_forward()
            self._record_weights()
            self._record_gradients(gradients, positions, scale)
        else:
            self._watch(gradients, positions, scale)

    def _all_finite(self, scale: float | Tensor) -> bool:
        """Whether one look shows that all went well, as in almost every step of almost every
        training; the norms of the gradients are then written."""
        if not self._screens or not _is_one(scale):
            return False
        gradients = [weight.grad for weight in self.weights.parameters]
        self._held = gradients  # or the optimizer would have to make their Python objects again
        return self.reductions.screen(
            gradients, self.losses, self._watch_places["watched_gradient"][len(self.rows)]
        )

    def _watch(self, gradients: list[Tensor], positions: list[int], scale: float | Tensor) -> None:
        """The norms of the gradients, and, unless all is known to be well, which layer lost its
        finite values.
        """
        norms, finite = self.reductions.watch(gradients)
        self._write(
            "watched_gradient",
            _over(self.weights.norm_by_layer(norms, positions, without=0.0), scale),
        )
        if not finite or not all(map(known_finite, self.losses)):
            self._find_layer()
            self._write_loss()

    def _write(self, name: str, values: Tensor) -> None:
        self.reductions.place(values, into=self._watch_places[name][len(self.rows)])

    def _write_loss(self) -> None:
        """Not finite as soon as that of one micro-batch is not."""
        losses = [loss.detach() for loss in self.losses]
        self._write(
            "watched_loss",
            losses[0] if len(losses) == 1 else torch.stack(losses).sum(dtype=torch.float64),
        )

    def _find_layer(self) -> None:
        """Which layers lost their finite values going forward, in any micro-batch."""
        if self.watching is not None:
            self._watch_forward(self.watching)
        for replay in self.replays:
            probe = WatchProbe(len(self.layers))
            replay(probe)
            self._watch_forward(probe)
        assert self.watched_forward is not None
        self._write("watched_forward", self.watched_forward)

    def _record_forward(self) -> None:
        assert self.forward is not None
        self._write_loss()
        forward, living = self.forward.combined()
        self._record(FORWARD, forward)
        self._record(("dead",), living)
        self._record(BACKPROP, self._mean_backprop(self.forward.total_examples()))

    def _mean_backprop(self, examples: float | Tensor) -> Tensor:
        """[2, L] means over the examples of ‖δ_i‖² and of ‖δ_i‖²‖x_i‖², of the batch's summed
        loss.
        """
        if len(self.backprop) == 1 and distributed.world_size() == 1:  # in one operation
            ((sums, scale),) = self.backprop
            return sums / (scale**2 * examples)
        parts = torch.stack([sums / scale**2 for sums, scale in self.backprop])
        return distributed.total(parts.sum(0)) / examples

    def _record_weights(self) -> None:
        """Norm and displacement; and keep them, for the update."""
        self.weights.follow()
        found = self.reductions.copy(self.weights.values, self._initial, into=self.before)
        norms, distances = map(self.weights.norm_by_layer, found.unbind(0))
        self._record(("weight_norm",), norms)
        self._record(("displacement",), distances / self._initial_norms)

    def _record_gradients(
        self, gradients: list[Tensor], positions: list[int], scale: float | Tensor
    ) -> None:
        of_biases, bias_positions = self.biases.with_gradient()
        found, finite = self.reductions.watch([*gradients, *of_biases])
        flat = found[: len(gradients)]
        of_biases_flat = found[len(gradients) :]
        has = self.weights.has(positions)
        norms = self.weights.norm_by_layer(flat, positions)
        self._record(("weight_grad_norm",), _over(norms, scale), has)
        counts = torch.zeros_like(flat) if finite or not gradients else nonfinite_counts(gradients)
        self._record(("nonfinite",), self.weights.sum_by_layer(counts, positions), has)
        bias_norms = self.biases.norm_by_layer(of_biases_flat, bias_positions)
        self._record(("bias_grad_norm",), _over(bias_norms, scale), self.biases.has(bias_positions))
        self._unclipped = (norms, _versions(gradients))
        self._scale = scale

    def after_clipping(self, recorded: bool) -> None:
        """Gradients are as the optimizer gets them. Read now: some optimizers (Nesterov's momentum
        among torch's) compute in the gradients' memory, and a fused one takes the loss scale out
        there. Without this call `after_update` reads them."""
        if recorded:
            self._record_clipped()

    def after_update(self, recorded: bool) -> None:
        """The optimizer has stepped: what really changed."""
        if recorded:
            if "weight_grad_norm_clipped" not in self.written:
                self._record_clipped()
            self.weights.follow()
            update = self.reductions.distances(self.weights.values, self.before)
            self._record(("update_norm",), self.weights.norm_by_layer(update))
        self._close_step(recorded)

    def _record_clipped(self) -> None:
        """Norms of the gradients as they are now; the ones known already where nobody has written
        to a gradient since.
        """
        gradients, positions = self.weights.with_gradient()
        norms, versions = self._unclipped
        if versions != _versions(gradients):
            norms = self.weights.norm_by_layer(self.reductions.norms(gradients), positions)
        self._record(
            ("weight_grad_norm_clipped",), _over(norms, self._scale), self.weights.has(positions)
        )

    def weights_only(self) -> None:
        """One more row for the weights as they are now, without a batch: norm and displacement."""
        self._record_weights()
        self._close_step(True)

    def _record(
        self, names: tuple[str, ...], values: Tensor, has: NDArray[np.bool_] | None = None
    ) -> None:
        """Keep rows of the buffer that stand together, [L] or [k, L]."""
        self.values[names[0]] = values
        self.written |= dict.fromkeys(names, has)

    def _close_step(self, recorded: bool) -> None:
        """Write the step's rows of the buffer, in one operation."""
        if recorded:
            blocks = [self.values.get(name, blank) for name, blank in self._blanks.items()]
            self.reductions.place_rows(blocks, into=self._record_places[len(self.rows)])
        self.rows.append(self.written if recorded else None)
        if recorded or self.watched_forward is not None or self.watching is not None:
            self._open_step()
        else:  # which has left nothing else: this runs in every step
            self.losses = []
            self._held = []
            self.replays = []

    @property
    def full(self) -> bool:
        """Whether the buffer must be flushed before the next step."""
        return len(self.rows) == self.flush_every

    # ---- to the host -----------------------------------------------------------------------------

    def flush(self) -> Flush:
        """Copy everything to the host in one transfer and start over with an empty buffer."""
        taken = len(self.rows)
        processes = distributed.world_size()
        buffer = self.buffer[:taken]
        if processes > 1 and taken:
            # every process watches its own share of the batch
            buffer[:, MEASURES:] = distributed.total(buffer[:, MEASURES:])
        host = buffer.cpu().numpy().copy()
        buffer[:, MEASURES:] = 0.0
        layers = [spec.index for spec in self.layers]
        counted = self.weights.first_owners()
        result = read(
            host,
            self.rows,
            self.first_step,
            layers,
            self.exists,
            counted,
            self.skips_overflow,
            processes,
        )
        self.first_step += taken
        self.rows = []
        return result


def _over(values: Tensor, scale: float | Tensor) -> Tensor:
    """Values without the loss scale that they carry."""
    return values if _is_one(scale) else values / scale


def _is_one(scale: float | Tensor) -> bool:
    return isinstance(scale, float) and scale == 1.0  # a tensor's value is not looked at


def _versions(tensors: list[Tensor]) -> list[tuple[int, int]]:
    """Equal before and after exactly if the tensors are the same ones and nobody has written to
    them.
    """
    return [(id(tensor), tensor._version) for tensor in tensors]
