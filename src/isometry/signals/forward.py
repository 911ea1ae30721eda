"""Forward statistics of an optimizer step: micro-batch by micro-batch, then of all micro-batches and processes together."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from isometry.activations import SATURATION_SHARE
from isometry.networks.layer import LayerSpec
from isometry.signals import distributed
from isometry.signals.probe import SignalProbe
from isometry.signals.statistics import alive_units, by_shape, merge_moments, moments, share_inside


class ForwardStatistics:
    """Accumulates one step.

    Args:
        layers: the layer map.
        device: where the network computes.
    """

    def __init__(self, layers: Sequence[LayerSpec], device: torch.device):
        self.layers, self.device = layers, device
        self.parts: list[Tensor] = []  # [L, 5]: mean and variance of h, mean and variance of φ(z), saturated share
        self.alive: list[Tensor] = []
        self.examples: list[int] = []

    def add(self, probe: SignalProbe) -> None:
        """A micro-batch, from what its probe has seen."""
        h = by_shape(probe.preactivations, moments)
        a = by_shape(probe.activations, moments)
        self.parts.append(torch.cat([h, a, self._saturation(probe).unsqueeze(1)], dim=1))
        alive = [alive_units(activation.unsqueeze(0))[0] for activation in probe.activations]
        self.alive = [torch.maximum(old, new) for old, new in zip(self.alive or alive, alive, strict=True)]
        self.examples.append(probe.preactivations[0].shape[0])

    def _saturation(self, probe: SignalProbe) -> Tensor:
        share = torch.full((len(self.layers),), torch.nan, dtype=torch.float64, device=self.device)
        intervals = [None if spec.activation is None else spec.activation.saturated_intervals for spec in self.layers]
        for inside in set(intervals):
            if inside is not None:
                rows = [i for i, own in enumerate(intervals) if own == inside]
                chosen = [probe.arguments[i] for i in rows]
                share[rows] = by_shape(chosen, functools.partial(share_inside, intervals=inside))
        for row, spec in enumerate(self.layers):
            if spec.activation is not None and spec.activation.slope is not None:
                slopes = spec.activation.slope(probe.arguments[row]).abs()
                share[row] = 1.0 - (slopes >= SATURATION_SHARE * spec.activation.slope_max).double().mean()
        return share

    def _counts(self) -> Tensor:
        """[P] examples of each part, over all processes."""
        return distributed.gathered(torch.tensor(self.examples, dtype=torch.float64, device=self.device))

    def total_examples(self) -> Tensor:
        """Examples of the whole step."""
        return self._counts().sum()

    def combined(self) -> dict[str, Tensor]:
        """The forward columns of the whole step, [L] each."""
        counts, parts = self._counts(), distributed.gathered(torch.stack(self.parts))
        h, a = merge_moments(counts, parts[..., 0:2]), merge_moments(counts, parts[..., 2:4])
        dead = [1.0 - distributed.largest(alive).mean() for alive in self.alive]
        return {
            "preactivation_mean": h[:, 0],
            "preactivation_var": h[:, 1],
            "forward_second_moment": h[:, 1] + h[:, 0].square(),
            "activation_var": a[:, 1],
            "saturation": (counts.view(-1, 1) * parts[..., 4]).sum(0) / counts.sum(),
            "dead": torch.stack(dead),
        }
