"""What one optimizer step has shown of every layer: sums as the tensors come by, over micro-batches
and uses; then the step's rows, over all processes together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from isometry.layers.spec import LayerSpec
from isometry.signals import distributed
from isometry.signals.observer import Gates, Sink
from isometry.signals.over_time import OverTime
from isometry.signals.own import Statistic, averages
from isometry.signals.statistics import (
    Constants,
    Sums,
    alive,
    example_norms,
    merge_moments,
    moments,
    norm,
    saturated,
    shifted_sums,
    vector,
)


@dataclass
class OfLayer:
    """Of one layer in one step.

    Attributes:
        h, a: sums of each use.
        inside: saturated entries of each use; out of `entries`.
        waiting: of the use in progress: its φ is still to come.
        alive: [units], over all uses.
        inputs, deltas: norms of the examples [B] at each use of the micro-batch in progress; of δ
            whose rows are no examples, the norm of all, [1].
    """

    h: list[Sums] = field(default_factory=list)
    a: list[Sums] = field(default_factory=list)
    inside: list[Tensor | int] = field(default_factory=list)
    entries: int = 0
    waiting: tuple[Tensor | int, int] | None = None
    alive: Tensor | None = None
    inputs: list[Tensor] = field(default_factory=list)
    deltas: list[Tensor] = field(default_factory=list)
    own: dict[str, list[Tensor]] = field(default_factory=dict)


class StepSums(Sink):
    """A sink for one optimizer step; all that it keeps is a few numbers a layer.

    Args:
        statistics: of the user's, by name.
    """

    def __init__(self, statistics: Mapping[str, Statistic] | None = None) -> None:
        self.statistics = statistics or {}
        self.of: dict[LayerSpec, OfLayer] = {}
        self.examples: list[int] = []  # of the micro-batches
        self.backprop: list[tuple[Tensor, float | Tensor]] = []
        self._came_by: list[tuple[bool, bool]] = []  # of each layer: δ, and ‖δ_i‖‖x_i‖
        self.over_time = OverTime()
        self._last: tuple[Tensor | None, Sums | None] = (None, None)

    def begin(self, examples: int) -> None:
        """A micro-batch of so many examples."""
        self.examples.append(examples)

    @property
    def backward_began(self) -> bool:
        """Whether a δ of the micro-batch in progress has come by."""
        return any(of.deltas for of in self.of.values())

    # ---- as tensors come by ----------------------------------------------------------------------

    def _of(self, layer: LayerSpec) -> OfLayer:
        if layer not in self.of:
            self.of[layer] = OfLayer()
        return self.of[layer]

    def own(self, layer: LayerSpec, kind: str, tensor: Tensor) -> None:
        """What the user's statistics make of a tensor."""
        for name, statistic in self.statistics.items():
            if statistic.of == kind:
                number = statistic.compute(tensor.detach())
                self._of(layer).own.setdefault(name, []).append(number)

    def preactivation(self, layer: LayerSpec, x: Tensor, h: Tensor) -> None:
        self.own(layer, "preactivation", h)
        of = self._of(layer)
        sums = shifted_sums(h)
        of.h.append(sums)
        self._last = (h, sums)
        if layer.map == "linear" and x.dim() == h.dim() == 2 and x.shape[0] == self.examples[-1]:
            of.inputs.append(example_norms(x))

    def argument(self, layer: LayerSpec, z: Tensor) -> None:
        phi = layer.activation
        if phi is not None and phi.saturates:
            self._of(layer).waiting = saturated(phi, z), z.numel()

    def activation(self, layer: LayerSpec, a: Tensor) -> None:
        self.own(layer, "activation", a)
        of = self._of(layer)
        if of.waiting is not None:
            inside, entries = of.waiting
            of.inside.append(inside)
            of.entries += entries
            of.waiting = None
        last, sums = self._last
        # φ in place gives the very tensor back, with other numbers
        if a is last and sums is not None and layer.activation is None:
            of.a.append(sums)
        else:
            of.a.append(shifted_sums(a))
        self._last = (None, None)
        if layer.kind == "hidden":
            living = alive(layer, a)
            of.alive = living if of.alive is None else of.alive | living

    def delta(self, layer: LayerSpec, gradient: Tensor) -> None:
        by_example = gradient.dim() > 1 and gradient.shape[0] == self.examples[-1]
        whole = [] if by_example else [norm(gradient)]
        found = example_norms(gradient) if by_example else vector(whole, gradient.device)
        self._of(layer).deltas.append(found)

    def recurrent(self, layer: LayerSpec, gates: Gates) -> None:
        of = self._of(layer)
        for gate, z, delta in gates:
            of.h.append(shifted_sums(z))
            of.inside.append(saturated(gate.activation, z))
            of.entries += z.numel()
            if delta is not None:
                of.deltas.append(example_norms(delta.transpose(0, 1)))
            self.over_time.add(layer, gate.name, gate.activation, z, delta)

    def end(self, layers: Sequence[LayerSpec], scale: float | Tensor, device: torch.device) -> None:
        """The backward pass of a micro-batch is over.

        Args:
            layers: L of them, on a device.
            scale: the factor by which the differentiated loss was larger than the micro-batch's
                summed loss.
        """
        self.over_time.end(scale)
        found = [self._of(layer) for layer in layers]
        deltas = [of.deltas for of in found]
        outer = [_outer(of) for of in found]
        rows = [_sums_of_squares(vectors, device) for vectors in (deltas, outer)]
        self.backprop.append((torch.stack(rows), scale))
        self._came_by = [(bool(a), bool(b)) for a, b in zip(deltas, outer, strict=True)]
        for of in found:
            of.inputs = []
            of.deltas = []

    def came_by(self) -> NDArray[np.bool_]:
        """[2, L]: of which layers δ, and ‖δ_i‖‖x_i‖, is known."""
        return np.array(self._came_by, dtype=bool).T

    # ---- the step's rows -------------------------------------------------------------------------

    def forward(self, layers: Sequence[LayerSpec], constants: Constants) -> Tensor:
        """Mean and variance of h, the share of saturated units, mean and variance of a, the share
        of living units: [6, L]; NaN where a layer has not shown it.
        """
        of = [self._of(layer) for layer in layers]
        h = _moments([each.h for each in of], constants)
        a = _moments([each.a for each in of], constants)
        inside = _total([each.inside for each in of], constants)
        entries = constants([each.entries for each in of])
        share = distributed.total(inside) / distributed.total(entries)
        return torch.stack([*h, share, *a, _living([each.alive for each in of], constants)])

    def averages_of_own(self, layers: Sequence[LayerSpec], device: torch.device) -> Tensor:
        """Of the user's statistics, [names, L]."""
        found = [
            [self._of(layer).own.get(name, []) for layer in layers] for name in self.statistics
        ]
        return torch.stack([averages(numbers, device) for numbers in found])

    def mean_backprop(self, constants: Constants) -> Tensor:
        """[2, L] means over the examples of ‖δ_i‖² and of ‖δ_i‖²‖x_i‖², of the batch's summed
        loss.
        """
        parts = [sums / scale**2 for sums, scale in self.backprop]
        whole = parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
        return distributed.total(whole) / distributed.total(constants([sum(self.examples)]))


def _outer(of: OfLayer) -> list[Tensor]:
    """‖δ_i‖‖x_i‖ of a layer used once on examples; nothing for others."""
    if len(of.deltas) != 1 or len(of.inputs) != 1 or len(of.deltas[0]) != len(of.inputs[0]):
        return []
    return [of.deltas[0] * of.inputs[0]]


def _sums_of_squares(vectors: Sequence[Sequence[Tensor]], device: torch.device) -> Tensor:
    """Over all vectors of each layer, [L]; NaN of a layer without any."""
    nothing = torch.full((1,), torch.nan, dtype=torch.float64, device=device)
    rows = [torch.cat(list(of)) if len(of) > 1 else (of[0] if of else nothing) for of in vectors]
    alike = len({row.shape for row in rows}) == 1
    whole = torch.stack(rows) if alike else pad_sequence(rows, batch_first=True)
    return whole.square().sum(1)


def _total(counts: Sequence[Sequence[Tensor | int]], constants: Constants) -> Tensor:
    """The sum of each layer's counts, [L]."""
    if any(isinstance(count, int) for of in counts for count in of):
        return vector([float(sum(of)) for of in counts], constants.device)
    zero = constants([0.0])[0]
    return torch.stack([zero + sum(of) for of in counts])


def _moments(uses: Sequence[Sequence[Sums]], constants: Constants) -> tuple[Tensor, Tensor]:
    """Mean and variance [L] of all uses of each of L layers, in all processes."""
    nothing: Sums = (0, constants([0.0, 0.0, 0.0]))
    most = max(1, *(len(sums) for sums in uses)) if uses else 1
    rows = [[sums[k] if k < len(sums) else nothing for sums in uses] for k in range(most)]
    counts = torch.stack([constants([sums[0] for sums in row]) for row in rows])
    parts = torch.stack([torch.stack([sums[1] for sums in row]) for row in rows])
    first, total, size = parts.unbind(-1)
    mean, variance = moments(first, total, size, counts)
    if most > 1:
        mean, variance, counts = _merged(mean, variance, counts)
    else:
        mean, variance, counts = mean[0], variance[0], counts[0]
    if distributed.world_size() == 1:
        return mean, variance
    gathered = distributed.gathered(torch.stack([mean, variance, counts]).unsqueeze(0))
    mean, variance, _ = _merged(*gathered.unbind(1))
    return mean, variance


def _merged(mean: Tensor, variance: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of parts [P, L]; a part without entries counts for nothing."""
    empty = counts == 0
    mean = mean.masked_fill(empty, 0.0)
    variance = variance.masked_fill(empty, 0.0)
    return *merge_moments(counts, mean, variance), counts.sum(0)


def _living(alive: Sequence[Tensor | None], constants: Constants) -> Tensor:
    """The share of living units, [L]; NaN where it is not known."""
    shares = torch.full((len(alive),), torch.nan, dtype=torch.float64, device=constants.device)
    known = [layer for layer, units in enumerate(alive) if units is not None]
    units = [units for units in alive if units is not None]
    if not known:
        return shares
    sizes = [len(of) for of in units]
    living = distributed.largest(torch.cat(units).double()).cumsum(0)
    last = constants([sum(sizes[: k + 1]) - 1 for k in range(len(sizes))]).long()
    counts = torch.diff(living[last], prepend=constants([0.0]))
    return shares.index_copy_(0, constants(known).long(), counts / constants(sizes))
