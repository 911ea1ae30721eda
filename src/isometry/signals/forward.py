"""Forward statistics of an optimizer step: micro-batch by micro-batch, then of all micro-batches
and processes together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isometry.activations import SATURATION_SHARE, Activation
from isometry.layers.probed import LayerSpec
from isometry.signals import distributed
from isometry.signals.layer_by_layer import LayerByLayer
from isometry.signals.probe import SignalProbe
from isometry.signals.reductions import Reductions
from isometry.signals.statistics import Intervals, merge_moments


class ForwardPlan:
    """What is the same in every step: which layers are saturated where, and which units are whose.

    Args:
        layers: the layer map.
        reductions: those of the device.
        outer: the layers (from 0) whose per-example weight gradient is an outer product.
        at_once: whether layers may be measured as they compute.
    """

    def __init__(
        self,
        layers: Sequence[LayerSpec],
        reductions: Reductions,
        outer: Sequence[int],
        at_once: bool,
    ):
        self.reductions = reductions
        self.outer = outer
        self._others = torch.tensor(
            [[k not in outer] for k in range(len(layers))], device=reductions.device
        )
        own = [_intervals(spec) for spec in layers]
        plain = [spec.normalization == "none" for spec in layers]
        # φ is applied to h itself
        self.at_preactivation = tuple(own[k] if plain[k] else None for k in range(len(layers)))
        self.behind = {k: own[k] for k in range(len(layers)) if not plain[k] and own[k] is not None}
        self._behind = torch.tensor(list(self.behind), dtype=torch.int64, device=reductions.device)
        self.by_slope = {
            k: s.activation
            for k, s in enumerate(layers)
            if s.activation is not None and s.activation.slope
        }
        self._widths: tuple[int, ...] = ()
        self._units = tuple(spec.weighted.weight.shape[0] for spec in layers)
        # a layer that is applied several times has several δ, which add up
        self._at_once = at_once and all(spec.uses == 1 for spec in layers)
        self._rooms: list[LayerByLayer | None] = []

    def room(self, micro_batch: int, examples: int) -> LayerByLayer | None:
        """What measures the layers of a step's micro-batch as they compute; the same one in every
        step.
        """
        if not self._at_once:
            return None
        if micro_batch == len(self._rooms):
            self._rooms.append(None)
        room = self._rooms[micro_batch]
        if room is None or room.examples != examples:
            wanted = (*self.behind, *self.by_slope)
            room = self.reductions.layer_by_layer(
                examples, self.at_preactivation, self._units, wanted
            )
            self._rooms[micro_batch] = room
        return None if room is None else room.open()

    def measure(self, probe: SignalProbe) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and variance of h, the share of saturated units, mean and variance of a: [5, L]; the
        living units [units of all layers]; and ‖a_i‖² behind a row of NaN, [1 + L, B]."""
        result, alive, squares = self._forward(probe)
        if self.behind:
            arguments = [probe.arguments[layer] for layer in self.behind]
            shares = self.reductions.preactivations(arguments, list(self.behind.values()))[2]
            result[2].index_copy_(0, self._behind, shares)
        for layer, activation in self.by_slope.items():
            result[2, layer] = _small_slopes(activation, probe.arguments[layer])
        return result, alive, squares

    def _forward(self, probe: SignalProbe) -> tuple[Tensor, Tensor, Tensor]:
        """What the probe has measured at once, and the rest."""
        h = probe.preactivations
        a = probe.activations
        widths = self.widths(probe)
        room = probe.at_once
        rest = [layer for layer, of_layer in enumerate(h) if of_layer is not probe.nothing]
        if room is None or len(rest) == len(h):
            return self.reductions.forward(h, self.at_preactivation, a, widths)
        for k in rest:
            found = self.reductions.forward(
                [h[k]], [self.at_preactivation[k]], [a[k]], (widths[k],)
            )
            room.fill(k, *found)
        return room.forward, room.alive, room.squares

    def squared_inputs(self, probe: SignalProbe, squares: Tensor) -> Tensor:
        """‖x_i‖² of this micro-batch, [L, B]; NaN for the layers whose per-example weight gradient
        is no outer product.

        Args:
            probe: of this micro-batch.
            squares: ‖a_i‖² behind a row of NaN, [1 + L, B]; mostly, a layer's activation is the
                next one's input.
        """
        below = [None, *probe.activations]
        room = probe.at_once
        result, seen = (
            (squares[:-1], []) if room is None else (room.settle_inputs(squares), room.inputs)
        )
        others = [
            layer
            for layer in self.outer
            if probe.inputs[layer] is not below[layer] and layer not in seen
        ]
        if others:
            self.reductions.replace(
                result, others, self.reductions.example_squares([probe.inputs[k] for k in others])
            )
        return (
            result
            if len(self.outer) == len(probe.inputs)
            else result.masked_fill_(self._others, torch.nan)
        )

    def widths(self, probe: SignalProbe) -> tuple[int, ...]:
        """The units (channels) of each layer, which stay what they are."""
        self._widths = self._widths or tuple(a.shape[1] for a in probe.activations)
        return self._widths


class ForwardStatistics:
    """Accumulates one step."""

    def __init__(self, plan: ForwardPlan):
        self.plan = plan
        self.parts: list[Tensor] = []  # [5, L] of each micro-batch: `flush.FORWARD`
        self.alive: Tensor | None = None  # [units of all layers]
        # their share in each layer, [L], where it is known of one micro-batch
        self.living: Tensor | None = None
        self.examples: list[int] = []

    def add(self, probe: SignalProbe) -> None:
        """A micro-batch, from what its probe has seen."""
        self.widths = self.plan.widths(probe)
        part, alive, squares = self.plan.measure(probe)
        self.parts.append(part)
        self.alive = alive if self.alive is None else torch.maximum(self.alive, alive)
        self.living = (
            probe.at_once.living
            if probe.at_once is not None and alive is probe.at_once.alive
            else None
        )
        self.examples.append(probe.activations[0].shape[0])
        self.squared_inputs = self.plan.squared_inputs(probe, squares)

    def _counts(self) -> Tensor:
        """[P] examples of each part, over all processes."""
        # filled there: the device waits for a copy from the host
        counts = [
            torch.full((), count, dtype=torch.float64, device=self.parts[0].device)
            for count in self.examples
        ]
        return distributed.gathered(torch.stack(counts))

    def total_examples(self) -> float | Tensor:
        """Examples of the whole step."""
        return self._counts().sum() if distributed.world_size() > 1 else float(sum(self.examples))

    def combined(self) -> tuple[Tensor, Tensor]:
        """The rows `flush.FORWARD` of the whole step, [5, L], and the share of living units,
        [L].
        """
        assert self.alive is not None
        if self._alone() and self.living is not None:
            return self.parts[0], self.living
        return self._merged(), self.plan.reductions.shares(
            distributed.largest(self.alive), self.widths
        )

    def _alone(self) -> bool:
        """Whether one micro-batch of one process is the whole batch."""
        return len(self.parts) == 1 and distributed.world_size() == 1

    def _merged(self) -> Tensor:
        """`parts` of all micro-batches and processes together."""
        if self._alone():
            return self.parts[0]
        counts = self._counts()
        parts = distributed.gathered(torch.stack(self.parts))
        mean_h, var_h, saturation, mean_a, var_a = parts.unbind(1)
        share = (counts.view(-1, 1) * saturation).sum(0) / counts.sum()
        return torch.stack(
            [*merge_moments(counts, mean_h, var_h), share, *merge_moments(counts, mean_a, var_a)]
        )


def _intervals(spec: LayerSpec) -> Intervals | None:
    """Where φ of a layer is saturated; None where that is not known as intervals."""
    if spec.activation is None or spec.activation.slope is not None:
        return None
    return spec.activation.saturated_intervals


@torch.no_grad()
def _small_slopes(activation: Activation, z: Tensor) -> Tensor:
    """The share of entries where |φ'| is small."""
    assert activation.slope is not None
    return (
        1.0 - (activation.slope(z).abs() >= SATURATION_SHARE * activation.slope_max).double().mean()
    )
