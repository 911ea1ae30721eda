"""Weights with a structure: the identity, and sparse rows."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Generator, nn

from isometry.initializers.base import InitializerError, PerLayer
from isometry.initializers.scaled import fill
from isometry.layers.spec import LayerSpec


class Identity(PerLayer):
    """gain times the identity in every hidden layer (Le et al. 2015 for recurrences).

    Args:
        gain: factor on the identity.
        sigma_b: standard deviation of the biases.
        readout: `gaussian`, LeCun's, or `identity` there as well.

    Raises:
        InitializerError: for a hidden layer with other outputs than inputs.
    """

    distribution = "identity"

    def __init__(
        self,
        gain: float,
        sigma_b: float,
        readout: Literal["gaussian", "identity"],
    ):
        if readout not in ("gaussian", "identity"):
            raise ValueError(f"readout={readout}: allowed are gaussian, identity")
        self.gain = gain
        self.sigma_b = sigma_b
        self.readout = readout

    def draw(self, spec: LayerSpec, generator: Generator) -> float:
        weight = spec.weight
        if spec.kind == "readout" and self.readout == "gaussian":
            fill(weight, 1 / math.sqrt(spec.fan_in), "gaussian", generator)
            return 1.0
        if weight.shape[0] != weight.shape[1]:
            narrower = f"set model.width={weight.shape[1]}, or " if spec.map == "linear" else ""
            raise InitializerError(
                f"initializer=identity: {spec.name} maps {weight.shape[1]} units to "
                f"{weight.shape[0]}, which is not square; {narrower}use initializer=orthogonal"
            )
        (nn.init.eye_ if spec.map == "linear" else nn.init.dirac_)(weight)
        weight.mul_(float(self.gain))
        return float(self.gain)


class Sparse(PerLayer):
    """Each unit has `connections` incoming weights from N(0, std²), the others are 0 (Martens 2010,
    sec. 5).

    σ_w = std √connections: the variance of h is that of a dense layer with σ_w²/fan_in.
    """

    distribution = "sparse"

    def __init__(self, connections: int, std: float, sigma_b: float):
        self.connections = connections
        self.std = std
        self.sigma_b = sigma_b

    def draw(self, spec: LayerSpec, generator: Generator) -> float:
        rows = spec.weight.view(len(spec.weight), -1)
        kept = min(self.connections, rows.shape[1])
        chosen = torch.rand(rows.shape, generator=generator).argsort(1)[:, :kept]
        values = torch.empty(len(rows), kept).normal_(0.0, self.std, generator=generator)
        rows.zero_().scatter_(1, chosen, values)
        return self.std * math.sqrt(kept)
