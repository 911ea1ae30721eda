"""Orthogonal weights: dynamical isometry for linear networks at any depth."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Generator, nn

from isometry.initializers.base import InitializerError, PerLayer
from isometry.layers.spec import LayerSpec


class Orthogonal(PerLayer):
    """gain times a matrix with orthonormal rows or columns, drawn from the Haar measure (Saxe et
    al. 2014).

    A kernel is flattened to [out, in x positions]. The mean square of an entry is gain²/max(rows,
    columns), so σ_w = gain √(fan_in/max(rows, fan_in)). `gain: auto` is the critical one of the
    network's φ.
    """

    distribution = "orthogonal"

    def __init__(self, gain: float | Literal["auto"], sigma_b: float):
        self.gain: float | str = gain
        self.sigma_b = sigma_b

    def draw(self, spec: LayerSpec, generator: Generator) -> float:
        gain = float(self.gain)
        value = torch.empty_like(spec.weight, memory_format=torch.contiguous_format)
        spec.weight.copy_(nn.init.orthogonal_(value, gain, generator))
        return gain * math.sqrt(spec.fan_in / max(len(value), spec.fan_in))


class DeltaOrthogonal(Orthogonal):
    """Convolution kernels that are zero but for an orthogonal matrix at their centre (Xiao et al.
    2018, algorithm 1).

    Linear layers of the same network become orthogonal. A kernel of one non-zero position acts as
    an orthogonal layer on the channels, so σ_w = gain √(channels in/channels out).

    Raises:
        InitializerError: for a network without a convolution, or a convolution with fewer outputs
            than inputs.
    """

    distribution = "delta_orthogonal"

    def __call__(self, layers: list[LayerSpec], generator: Generator) -> None:
        if not any(spec.map == "conv" for spec in layers):
            raise InitializerError(
                "initializer=delta_orthogonal needs convolutions: use model=convnet, or "
                "initializer=orthogonal"
            )
        super().__call__(layers, generator)

    def draw(self, spec: LayerSpec, generator: Generator) -> float:
        if spec.map == "linear":
            return super().draw(spec, generator)
        weight = spec.weight
        outputs, inputs, height, width = weight.shape
        if outputs < inputs:
            raise InitializerError(
                f"initializer=delta_orthogonal: {spec.name} maps {inputs} channels to {outputs}; "
                "needed are as many out as in"
            )
        weight.zero_()
        gain = float(self.gain)
        nn.init.orthogonal_(weight[:, :, height // 2, width // 2], gain, generator)
        return gain * math.sqrt(inputs / outputs)
