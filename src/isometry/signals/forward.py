"""Forward statistics of an optimizer step: micro-batch by micro-batch, then of all micro-batches and processes together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isometry.activations import SATURATION_SHARE
from isometry.networks.layer import LayerSpec
from isometry.signals import distributed
from isometry.signals.norms import per_example_squares
from isometry.signals.probe import SignalProbe
from isometry.signals.statistics import Intervals, alive_units, merge_moments, moments, share_inside
from isometry.signals.workspace import Workspace

_PARTS = ("preactivation_mean", "preactivation_var", "activation_mean", "activation_var", "saturation")


class ForwardStatistics:
    """Accumulates one step.

    Args:
        layers: the layer map.
        workspace: memory to compute in.
        outer: the layers (from 0) whose per-example weight gradient is an outer product.
    """

    def __init__(self, layers: Sequence[LayerSpec], workspace: Workspace, outer: Sequence[int]):
        self.layers, self.workspace, self.outer = layers, workspace, outer
        self.parts: list[Tensor] = []  # [5, L] of each micro-batch: `_PARTS`
        self.alive: list[Tensor] = []  # [L] of [units]
        self.examples: list[int] = []
        self.squared_inputs: dict[int, Tensor] = {}  # ‖x_i‖² [B] of the layers in `outer`, this micro-batch

    def add(self, probe: SignalProbe) -> None:
        """A micro-batch, from what its probe has seen."""
        shares: dict[int, Tensor] = {}
        h = self._moments_of_preactivations(probe, shares)
        a = self._moments_of_activations(probe)
        self._saturation_elsewhere(probe, shares)
        nothing = torch.full((), torch.nan, dtype=torch.float64, device=self.workspace.device)
        saturation = torch.stack([shares.get(layer, nothing) for layer in range(len(self.layers))])
        self.parts.append(torch.stack([*h, *a, saturation]))
        self.examples.append(probe.preactivations[0].shape[0])

    def _moments_of_preactivations(self, probe: SignalProbe, shares: dict[int, Tensor]) -> list[Tensor]:
        """Mean and variance of h; and, where φ is applied to h itself, saturation on the way."""
        found: list[tuple[Tensor, Tensor]] = []
        own = [None if s.normalization != "none" else _intervals(s) for s in self.layers]
        for positions, block in self.workspace.chunks(probe.preactivations, own):
            spare, inside = self.workspace.spare(block), own[positions[0]]
            if inside is not None:
                shares.update(zip(positions, share_inside(block, spare, inside).unbind(0), strict=True))
            found.append(moments(block, spare))
        return [torch.cat(column) for column in zip(*found, strict=True)]

    def _moments_of_activations(self, probe: SignalProbe) -> list[Tensor]:
        """Mean and variance of a = φ(z); on the way living units, and the norms of the inputs they are to the layer above."""
        found: list[tuple[Tensor, Tensor]] = []
        alive: list[Tensor] = []
        self.squared_inputs = {}
        feeds = {layer - 1: layer for layer in self.outer if layer and probe.inputs[layer] is probe.activations[layer - 1]}
        for positions, block in self.workspace.chunks(probe.activations):
            spare = self.workspace.spare(block)
            if any(position in feeds for position in positions):
                squares = per_example_squares(block)
                self.squared_inputs |= {feeds[p]: squares[k] for k, p in enumerate(positions) if p in feeds}
            alive += alive_units(block, spare).unbind(0)
            found.append(moments(block, spare))
        for layer in set(self.outer) - self.squared_inputs.keys():
            self.squared_inputs[layer] = per_example_squares(probe.inputs[layer].unsqueeze(0))[0]
        self.alive = [torch.maximum(old, new) for old, new in zip(self.alive, alive, strict=True)] if self.alive else alive
        return [torch.cat(column) for column in zip(*found, strict=True)]

    def _saturation_elsewhere(self, probe: SignalProbe, shares: dict[int, Tensor]) -> None:
        """Saturation behind a normalization, and of activations whose slope is learned."""
        for layer, spec in enumerate(self.layers):
            z, inside = probe.arguments[layer], _intervals(spec)
            if spec.activation is not None and spec.activation.slope is not None:
                slopes = spec.activation.slope(z).abs()
                shares[layer] = 1.0 - (slopes >= SATURATION_SHARE * spec.activation.slope_max).double().mean()
            elif inside is not None and layer not in shares:
                shares[layer] = share_inside(z.unsqueeze(0), torch.empty_like(z).unsqueeze(0), inside)[0]

    def _counts(self) -> Tensor:
        """[P] examples of each part, over all processes."""
        return distributed.gathered(torch.tensor(self.examples, dtype=torch.float64, device=self.workspace.device))

    def total_examples(self) -> float | Tensor:
        """Examples of the whole step."""
        return self._counts().sum() if distributed.world_size() > 1 else float(sum(self.examples))

    def combined(self) -> dict[str, Tensor]:
        """The forward columns of the whole step, [L] each."""
        counts, parts = self._counts(), distributed.gathered(torch.stack(self.parts))
        mean_h, var_h, mean_a, var_a, saturation = parts.unbind(1)
        mean, variance = merge_moments(counts, mean_h, var_h)
        activation_mean, activation_var = merge_moments(counts, mean_a, var_a)
        return {
            "preactivation_mean": mean,
            "preactivation_var": variance,
            "forward_second_moment": variance + mean.square(),
            "activation_mean": activation_mean,
            "activation_var": activation_var,
            "saturation": (counts.view(-1, 1) * saturation).sum(0) / counts.sum(),
            "dead": 1.0 - self._living(),
        }

    def _living(self) -> Tensor:
        """Share of units that are non-zero for some example of the whole step, [L]."""
        widths = [len(units) for units in self.alive]
        units = distributed.largest(torch.cat(self.alive))
        return torch.stack([part.mean() for part in units.split(widths)])


def _intervals(spec: LayerSpec) -> Intervals | None:
    """Where φ of a layer is saturated; None where that is not known as intervals."""
    if spec.activation is None or spec.activation.slope is not None:
        return None
    return spec.activation.saturated_intervals
