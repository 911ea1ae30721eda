"""Forward statistics of an optimizer step: micro-batch by micro-batch, then of all micro-batches and processes together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isometry.activations import SATURATION_SHARE, Activation
from isometry.networks.layer import LayerSpec
from isometry.signals import distributed
from isometry.signals.probe import SignalProbe
from isometry.signals.reductions import Reductions
from isometry.signals.statistics import Intervals, merge_moments


class ForwardPlan:
    """What is the same in every step: which layers are saturated where, and which units are whose.

    Args:
        layers: the layer map.
        reductions: those of the device.
        outer: the layers (from 0) whose per-example weight gradient is an outer product.
    """

    def __init__(self, layers: Sequence[LayerSpec], reductions: Reductions, outer: Sequence[int]):
        self.reductions, self.outer = reductions, outer
        self._others = torch.tensor([[k not in outer] for k in range(len(layers))], device=reductions.device)
        own = [_intervals(spec) for spec in layers]
        plain = [spec.normalization == "none" for spec in layers]
        self.at_preactivation = tuple(own[k] if plain[k] else None for k in range(len(layers)))  # φ is applied to h itself
        self.behind = {k: own[k] for k in range(len(layers)) if not plain[k] and own[k] is not None}
        self._behind = torch.tensor(list(self.behind), dtype=torch.int64, device=reductions.device)
        self.by_slope = {k: s.activation for k, s in enumerate(layers) if s.activation is not None and s.activation.slope}
        self._widths: tuple[int, ...] = ()

    def measure(self, probe: SignalProbe) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and variance of h, the share of saturated units, mean and variance of a: [5, L]; the living units [units of all
        layers]; and ‖a_i‖² behind a row of NaN, [1 + L, B]."""
        h, a, widths = probe.preactivations, probe.activations, self.widths(probe)
        result, alive, squares = self.reductions.forward(h, self.at_preactivation, a, widths)
        if self.behind:
            arguments = [probe.arguments[layer] for layer in self.behind]
            shares = self.reductions.preactivations(arguments, list(self.behind.values()))[2]
            result[2].index_copy_(0, self._behind, shares)
        for layer, activation in self.by_slope.items():
            result[2, layer] = _small_slopes(activation, probe.arguments[layer])
        return result, alive, squares

    def squared_inputs(self, probe: SignalProbe, squares: Tensor) -> Tensor:
        """‖x_i‖² of this micro-batch, [L, B]; NaN for the layers whose per-example weight gradient is no outer product.

        Args:
            probe: of this micro-batch.
            squares: ‖a_i‖² behind a row of NaN, [1 + L, B]; mostly, a layer's activation is the next one's input.
        """
        below = [None, *probe.activations]
        others = [layer for layer in self.outer if probe.inputs[layer] is not below[layer]]
        result = squares[:-1]
        self.reductions.replace(result, others, self.reductions.example_squares([probe.inputs[k] for k in others]))
        return result if len(self.outer) == len(result) else result.masked_fill_(self._others, torch.nan)

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
        self.examples: list[int] = []

    def add(self, probe: SignalProbe) -> None:
        """A micro-batch, from what its probe has seen."""
        self.widths = self.plan.widths(probe)
        part, alive, squares = self.plan.measure(probe)
        self.parts.append(part)
        self.alive = alive if self.alive is None else torch.maximum(self.alive, alive)
        self.examples.append(len(probe.activations[0]))
        self.squared_inputs = self.plan.squared_inputs(probe, squares)

    def _counts(self) -> Tensor:
        """[P] examples of each part, over all processes."""
        # filled there: the device waits for a copy from the host
        counts = [torch.full((), count, dtype=torch.float64, device=self.parts[0].device) for count in self.examples]
        return distributed.gathered(torch.stack(counts))

    def total_examples(self) -> float | Tensor:
        """Examples of the whole step."""
        return self._counts().sum() if distributed.world_size() > 1 else float(sum(self.examples))

    def combined(self) -> tuple[Tensor, Tensor]:
        """The rows `flush.FORWARD` of the whole step, [5, L], and the share of living units, [L]."""
        assert self.alive is not None
        return self._merged(), self.plan.reductions.shares(distributed.largest(self.alive), self.widths)

    def _merged(self) -> Tensor:
        """`parts` of all micro-batches and processes together."""
        if len(self.parts) == 1 and distributed.world_size() == 1:
            return self.parts[0]
        counts, parts = self._counts(), distributed.gathered(torch.stack(self.parts))
        mean_h, var_h, saturation, mean_a, var_a = parts.unbind(1)
        share = (counts.view(-1, 1) * saturation).sum(0) / counts.sum()
        return torch.stack([*merge_moments(counts, mean_h, var_h), share, *merge_moments(counts, mean_a, var_a)])


def _intervals(spec: LayerSpec) -> Intervals | None:
    """Where φ of a layer is saturated; None where that is not known as intervals."""
    if spec.activation is None or spec.activation.slope is not None:
        return None
    return spec.activation.saturated_intervals


@torch.no_grad()
def _small_slopes(activation: Activation, z: Tensor) -> Tensor:
    """The share of entries where |φ'| is small."""
    assert activation.slope is not None
    return 1.0 - (activation.slope(z).abs() >= SATURATION_SHARE * activation.slope_max).double().mean()
