"""The recorder: every layer's statistics in one tensor on the device, copied to the host once per
flush.

One optimizer step goes through it like this (the Lightning callback does no more than call these):

    recorder.begin(recorded, n)           before the forward pass of each micro-batch
    recorder.after_forward(loss)          before its backward pass
    recorder.after_backward(scale)        after it
    recorder.before_update(recorded)      gradients complete, not yet clipped
    recorder.after_clipping(recorded)     clipped, not yet used
    recorder.after_update(recorded)       weights updated
    flush = recorder.flush()              now and then

Nothing in a step waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from isometry.columns import MEASURED
from isometry.errors import UserError
from isometry.layers.spec import LayerSpec
from isometry.layers.why import explain
from isometry.signals import distributed
from isometry.signals.flush import Flush, TimeRows, Written, read
from isometry.signals.norms import (
    distances,
    keep,
    known_finite,
    nonfinite_counts,
    norms,
    seen_at_once,
)
from isometry.signals.observer import Observer, Sink
from isometry.signals.own import Statistic
from isometry.signals.parameters import LayerParameters
from isometry.signals.rows import BACKPROP, COLUMN, FORWARD, MEASURES, ROW
from isometry.signals.statistics import Constants
from isometry.signals.sums import StepSums

Replay = Callable[[], object]
"""Runs the forward pass of a micro-batch again."""


class Recorder:
    """Measures a network.

    Where several processes train together, every process must call every method at the same steps:
    the statistics are those of the global batch.

    Args:
        root: the network, or what calls several of them; its parameters on the device that trains.
        layers: its layer map; None: found in the first forward pass.
        flush_every: optimizer steps that fit between two flushes.
        first_step: the step at which recording starts (> 0 after a resume).
        skips_overflow: True under a gradient scaler, where a non-finite gradient is a skipped step
            and no divergence.
        statistics: of the user's, by name.

    Attributes:
        initial: the weights at step 0, from which displacement is taken; once layers are known.
    """

    def __init__(
        self,
        root: nn.Module,
        layers: Sequence[LayerSpec] | None = None,
        flush_every: int = 200,
        first_step: int = 0,
        skips_overflow: bool = False,
        statistics: Mapping[str, Statistic] | None = None,
    ):
        self.observer = Observer(root, layers)
        self.flush_every = flush_every
        self.first_step = first_step
        self.skips_overflow = skips_overflow
        self.statistics = statistics or {}
        self._own: list[Tensor] = []  # [names, L] of each recorded step
        self._over_time: list[tuple[int, LayerSpec, str, Tensor]] = []
        self.rows: list[Written | None] = []  # of each step in the buffer; None: not recorded
        self.prepared = False
        self._restored: list[Tensor] | None = None  # W_0 of an earlier recorder; [] if not known
        if layers is not None:
            self._prepare()
        self._open_step()

    @property
    def layers(self) -> list[LayerSpec]:
        """The layer map; empty before the first forward pass."""
        return self.observer.layers

    def _prepare(self) -> None:
        """All that depends on the layers."""
        if not self.layers:
            raise UserError(
                "no layer was found: the forward pass of the first step applied no weight"
            )
        self.prepared = True
        self.device = self.layers[0].weights[0].device
        self.constants = Constants(self.device)
        self.weights = LayerParameters([spec.weights for spec in self.layers], self.constants)
        self.biases = LayerParameters([spec.biases for spec in self.layers], self.constants)
        values = self.weights.values()
        shape = (self.flush_every, len(ROW), len(self.layers))
        self.buffer = torch.full(shape, torch.nan, dtype=torch.float64, device=self.device)
        self.buffer[:, MEASURES:] = 0.0
        self.initial = [value.clone() for value in values]
        self._before = [torch.empty_like(v, memory_format=torch.contiguous_format) for v in values]
        self.exists = self._existing()
        self._restore()

    def _existing(self) -> NDArray[np.bool_]:
        """[columns, L]: False where a statistic does not exist for a layer, whatever the step."""
        explain(self.layers)  # again: what is frozen may have changed since
        exists = np.ones((len(MEASURED), len(self.layers)), dtype=bool)
        for index, spec in enumerate(self.layers):
            exists[[COLUMN[name] for name in spec.why], index] = False
        return exists

    # ---- the weights at step 0 -------------------------------------------------------------------

    def restore_initial(self, initial: Sequence[Tensor] | None) -> None:
        """Take `initial` of an earlier recorder; None: it is not known, and there is no
        displacement.
        """
        self._restored = list(initial or ())
        if self.prepared:
            self._restore()

    def _restore(self) -> None:
        if self._restored is not None:
            alike = [x.shape for x in self._restored] == [x.shape for x in self.initial]
            self.exists[COLUMN["displacement"]] &= alike
            for weight, value in zip(self.initial, self._restored if alike else (), strict=False):
                weight.copy_(value)
        self._initial_norms = self.weights.norm_by_layer(norms(self.initial, self.device))

    # ---- one step --------------------------------------------------------------------------------

    def _open_step(self) -> None:
        self.sums = StepSums(self.statistics)
        self.losses: list[Tensor] = []  # of the micro-batches
        self.replays: list[Replay] = []  # of those that nobody watched
        self.watched_forward: Tensor | None = None  # [L], not finite likewise
        self.values: dict[str, Tensor] = {}  # rows of the buffer, by name
        self.written: Written = {}

    @property
    def step(self) -> int:
        """The optimizer step that is being measured."""
        return self.first_step + len(self.rows)

    def begin(
        self,
        recorded: bool,
        examples: int,
        replay: Replay | None = None,
        called_with: tuple[Any, Any] | None = None,
    ) -> None:
        """Before the forward pass of a micro-batch.

        Args:
            recorded: whether the step is recorded, or only watched.
            examples: of the micro-batch.
            replay: runs its forward pass again. On devices whose numbers are seen at once nothing
                is attached to a network in a step that is only watched, and only one that went
                wrong is replayed.
            called_with: what the root has been called with, in a pre-hook of its own.
        """
        self._watch = None
        if recorded:
            self.sums.begin(examples)
            self.observer.open(self.sums, called_with)
        elif replay is not None and self.prepared and seen_at_once(self.device):
            self.replays.append(replay)
        elif self.prepared and self.observer.compiled:
            pass  # a compiled graph shows nothing; which layer's gradient went wrong is seen
        else:
            self._watch = Watch()
            self.observer.open(self._watch, called_with)

    def start_over(self) -> None:
        """The optimizer's step was left out: forget what has been seen of it."""
        self._open_step()

    def after_forward(self, loss: Tensor | None = None) -> None:
        """Before the backward pass of a micro-batch.

        Args:
            loss: of it; None where it is not seen.
        """
        if loss is not None:
            self.losses.append(loss.detach())
        self.observer.backward_begins()
        if not self.prepared:
            self._prepare()
        if self._watch is not None:
            self.observer.close()
            self._watch_forward(self._watch)

    def _watch_forward(self, watch: Watch) -> None:
        """Which layers lost their finite values; in any micro-batch, at any use."""
        now = watch.norms(self.layers, self.constants)
        before = self.watched_forward
        self.watched_forward = now if before is None else before + now

    def after_backward(self, scale: float | Tensor = 1.0) -> None:
        """After the backward pass of a micro-batch.

        Args:
            scale: the factor by which the differentiated loss was larger than the micro-batch's
                *summed* loss (1/examples for a mean, times a loss scale, over the accumulation
                factor).
        """
        self.observer.backward_ended()
        self.observer.close()
        if len(self.sums.backprop) < len(self.sums.examples):
            self.sums.end(self.layers, scale, self.device)

    def before_update(self, recorded: bool, scale: float | Tensor = 1.0) -> None:
        """Gradients of the whole step are complete.

        Args:
            recorded: whether to record norms, or only to watch for non-finite ones.
            scale: a loss scale that the gradients still carry.
        """
        gradients, positions = self.weights.with_gradient()
        if recorded:
            self._record_forward()
            if self.statistics:
                self._record_own()
            self._record_weights()
            self._record_gradients(gradients, positions, scale)
        else:
            self._watch_step(gradients, positions, scale)

    def _watch_step(
        self, gradients: Sequence[Tensor], positions: Sequence[int], scale: float | Tensor
    ) -> None:
        """The norms of the gradients, and which layer lost its finite values."""
        flat = self.weights.norm_by_layer(norms(gradients, self.device), positions, without=0.0)
        self._row("watched_gradient").copy_(_over(flat, scale))
        self._row("watched_loss").copy_(self._loss())
        if self.replays and not (known_finite(flat) and all(map(known_finite, self.losses))):
            self._replay()
        if self.watched_forward is not None:
            self._row("watched_forward").copy_(self.watched_forward)

    def _row(self, name: str) -> Tensor:
        return self.buffer[len(self.rows), ROW[name]]

    def _loss(self) -> Tensor:
        """Not finite as soon as that of one micro-batch is not."""
        return sum((loss.double() for loss in self.losses), start=self.constants([0.0])[0])

    def _replay(self) -> None:
        for replay in self.replays:
            watch = Watch()
            self.observer.open(watch)
            try:
                replay()
            finally:
                self.observer.close()
            self._watch_forward(watch)

    def _record_own(self) -> None:
        for spec in self.layers:
            whole = spec.weights[0].detach() if spec.view is None else spec.weight
            self.sums.own(spec, "weight", whole)
        self._own.append(self.sums.averages_of_own(self.layers, self.device))

    def _record_forward(self) -> None:
        self._row("watched_loss").copy_(self._loss())
        of = [self.sums.of[spec] for spec in self.layers]
        values = self.sums.forward(self.layers, self.constants)
        seen = np.array([bool(each.h) for each in of])
        applied = np.array([bool(each.a) for each in of])
        has = dict.fromkeys(FORWARD, applied) | dict.fromkeys(FORWARD[:2], seen)
        has["saturation"] = np.array([bool(each.inside) for each in of])
        self._record(FORWARD, values, has)
        if (
            distributed.world_size() == 1
        ):  # sequences of several processes need not be of one length
            rows = self.sums.over_time.rows(sum(self.sums.examples))
            self._over_time += [(self.step, *key, values) for key, values in rows.items()]
        mean = self.sums.mean_backprop(self.constants)
        self._record(BACKPROP, mean, dict(zip(BACKPROP, self.sums.came_by(), strict=True)))

    def _record_weights(self) -> None:
        """Norm and displacement; and keep them, for the update."""
        values = self.weights.values()
        sizes, moved = keep(values, self._before, self.initial, self.device)
        self._record_one("weight_norm", self.weights.norm_by_layer(sizes))
        by_layer = self.weights.norm_by_layer(moved)
        self._record_one("displacement", by_layer / self._initial_norms)

    def _record_gradients(
        self, gradients: Sequence[Tensor], positions: Sequence[int], scale: float | Tensor
    ) -> None:
        flat = norms(gradients, self.device)
        by_layer = self.weights.norm_by_layer(flat, positions)
        has = self.weights.has(positions)
        self._record_one("weight_grad_norm", _over(by_layer, scale), has)
        finite = not gradients or known_finite(flat)
        counts = torch.zeros_like(flat) if finite else nonfinite_counts(gradients)
        self._record_one("nonfinite", self.weights.sum_by_layer(counts, positions), has)
        of_biases, at = self.biases.with_gradient()
        bias_norms = self.biases.norm_by_layer(norms(of_biases, self.device), at)
        self._record_one("bias_grad_norm", _over(bias_norms, scale), self.biases.has(at))
        self._unclipped = (by_layer, _versions(gradients))
        self._scale = scale

    def after_clipping(self, recorded: bool, scale: float | Tensor | None = None) -> None:
        """Gradients are as the optimizer gets them. Read now: some optimizers (Nesterov's momentum
        among torch's) compute in the gradients' memory, and a fused one takes the loss scale out
        there. Without this call `after_update` reads them.

        Args:
            recorded: whether to.
            scale: a loss scale that they still carry; None: the one of `before_update`.
        """
        if recorded:
            self._record_clipped(self._scale if scale is None else scale)

    def _record_clipped(self, scale: float | Tensor) -> None:
        """Norms of the gradients as they are now; the ones known already where nobody has written
        to a gradient since.
        """
        gradients, positions = self.weights.with_gradient()
        found, versions = self._unclipped
        if versions != _versions(gradients):
            found = self.weights.norm_by_layer(norms(gradients, self.device), positions)
        has = self.weights.has(positions)
        self._record_one("weight_grad_norm_clipped", _over(found, scale), has)

    def after_update(self, recorded: bool) -> None:
        """The optimizer has stepped: what really changed."""
        if recorded:
            if "weight_grad_norm_clipped" not in self.written:
                self._record_clipped(self._scale)
            update = distances(self.weights.values(), self._before, self.device)
            self._record_one("update_norm", self.weights.norm_by_layer(update))
        self._close_step(recorded)

    def weights_only(self) -> None:
        """One more row for the weights as they are now, without a batch: norm and displacement."""
        self._record_weights()
        self._close_step(True)

    def _record(
        self,
        names: tuple[str, ...],
        values: Tensor,
        has: dict[str, NDArray[np.bool_]],
    ) -> None:
        """Keep rows of the buffer, [k, L], and for which layers they exist."""
        self.values |= dict(zip(names, values, strict=True))
        self.written |= has

    def _record_one(self, name: str, values: Tensor, has: NDArray[np.bool_] | None = None) -> None:
        self.values[name] = values
        self.written[name] = has

    def _close_step(self, recorded: bool) -> None:
        """Write the step's rows of the buffer."""
        if recorded:
            at = self.constants([ROW[name] for name in self.values]).long()
            values = torch.stack(list(self.values.values()))
            self.buffer[len(self.rows)].index_copy_(0, at, values)
        self.rows.append(self.written if recorded else None)
        self._open_step()

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
        fixed = (layers, self.exists, counted, self.skips_overflow, processes)
        result = read(host, self.rows, self.first_step, *fixed)
        times = [
            TimeRows(step, spec.index, spec.name, gate, values.cpu().numpy())
            for step, spec, gate, values in self._over_time
        ]
        self._over_time = []
        self.first_step += taken
        self.rows = []
        own = np.empty((len(self.statistics), 0, len(layers)))
        if self._own:
            own = torch.stack(self._own, 1).cpu().numpy()
        self._own = []
        return replace(result, over_time=times, own=dict(zip(self.statistics, own, strict=True)))


class Watch(Sink):
    """A sink that keeps the preactivations of one forward pass, and nothing else."""

    wants_deltas = False

    def __init__(self) -> None:
        self.kept: list[tuple[LayerSpec, Tensor]] = []

    def preactivation(self, layer: LayerSpec, x: Tensor, h: Tensor) -> None:
        self.kept.append((layer, h.detach()))

    def norms(self, layers: Sequence[LayerSpec], constants: Constants) -> Tensor:
        """[L], not finite where a layer's h is not at any use; 0 where it has shown none."""
        found = norms([h for _, h in self.kept], constants.device)
        at = {spec: index for index, spec in enumerate(layers)}
        owners = constants([at[spec] for spec, _ in self.kept]).long()
        nothing = torch.zeros(len(layers), dtype=torch.float64, device=constants.device)
        return nothing.index_add_(0, owners, found)


def _over(values: Tensor, scale: float | Tensor) -> Tensor:
    """Values without the loss scale that they carry."""
    return values if _is_one(scale) else values / scale


def _is_one(scale: float | Tensor) -> bool:
    return isinstance(scale, float) and scale == 1.0  # a tensor's value is not looked at


def _versions(tensors: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Equal before and after exactly if the tensors are the same ones and nobody has written to
    them.
    """
    return [(id(tensor), tensor._version) for tensor in tensors]
