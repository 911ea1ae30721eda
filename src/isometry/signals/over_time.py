"""Recurrent layers gate by gate and time step by time step, in one optimizer step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from isometry.activations import Activation
from isometry.layers.spec import LayerSpec
from isometry.signals.statistics import merge_moments, saturated, vector

Key = tuple[LayerSpec, str]
"""A layer and a gate of it."""


class OverTime:
    """Collects the calls of recurrent layers; calls of a cell follow one another in time."""

    def __init__(self) -> None:
        self._calls: dict[Key, list[Tensor]] = {}  # of the micro-batch in progress
        self._parts: dict[Key, list[Tensor]] = {}  # of each micro-batch

    def add(
        self, layer: LayerSpec, gate: str, phi: Activation, z: Tensor, delta: Tensor | None
    ) -> None:
        """One call: h and δ of a gate, [T, B, H]."""
        variance, mean = torch.var_mean(z.double(), (1, 2), correction=0)
        count = torch.full_like(mean, z[0].numel())
        inside = vector([saturated(phi, now) for now in z], z.device).to(mean)
        squares = torch.full_like(mean, torch.nan)
        if delta is not None:
            squares = delta.double().square().sum((1, 2))
        found = torch.stack([count, mean, variance, inside, squares])
        self._calls.setdefault((layer, gate), []).append(found)

    def end(self, scale: float | Tensor) -> None:
        """The backward pass of a micro-batch is over; `scale` as of `StepSums.end`."""
        for key, calls in self._calls.items():
            part = torch.cat(calls, 1)
            part[4] /= scale**2
            self._parts.setdefault(key, []).append(part)
        self._calls = {}

    def rows(self, examples: int) -> dict[Key, Tensor]:
        """`columns.OVER_TIME` of each layer and gate, [5, T]."""
        return {key: _together(parts, examples) for key, parts in self._parts.items()}


def _together(parts: list[Tensor], examples: int) -> Tensor:
    """Of all micro-batches; a sequence that has ended counts for nothing later on."""
    longest = max(part.shape[1] for part in parts)
    every = torch.stack([pad(part, (0, longest - part.shape[1])) for part in parts])
    counts, means, variances, inside, squares = every.unbind(1)
    mean, variance = merge_moments(counts, means, variances)
    saturation = inside.sum(0) / counts.sum(0)
    backprop = (squares.sum(0) / examples).sqrt()
    return torch.stack([mean, variance, variance + mean.square(), saturation, backprop])
