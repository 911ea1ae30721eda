"""Scaled weight standardization (Brock, De & Smith 2021, "Characterizing signal propagation", sec.
4.2).
"""

from __future__ import annotations

import functools

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize

from isometry.activations import Activation
from isometry.layers.spec import LayerSpec
from isometry.remedies.base import Remedy, maps_in
from isometry.theory.quadrature import expectation


class Standardized(nn.Module):
    """W -> g γ (W - μ)/(σ √fan_in) with mean and deviation over the inputs of each unit, a learned
    g for each unit, and γ so that φ of a standard Gaussian has variance 1.
    """

    def __init__(self, units: int, gamma: float, eps: float = 1e-4):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(units))
        self.gamma = gamma
        self.eps = eps

    def forward(self, weight: Tensor) -> Tensor:
        rows = weight.flatten(1)
        fan_in = rows.shape[1]
        variance, mean = torch.var_mean(rows, 1, keepdim=True, correction=0)
        scale = torch.rsqrt((variance * fan_in).clamp(min=self.eps)) * self.gain[:, None]
        return ((rows - mean) * scale * self.gamma).view_as(weight)


class WeightStandardization(Remedy):
    """Standardizes each weight but the readout's, as the initializer has drawn it. γ is that of the
    network's own φ; 1 for the first map, which no φ precedes, and where there are several φ.
    """

    hides_weights = True

    def alter(self, network: nn.Module) -> None:
        self.refuse_attention(network, "model=resnet, convnet or an mlp")
        if len(maps_in(network)) < 2:
            raise self.refuse("is for maps that are linear or convolutions, and here are none")

    def begin(self, network: nn.Module, layers: list[LayerSpec], generator: Generator) -> None:
        gamma = gain_of(network)
        for index, part in enumerate(maps_in(network)[:-1]):
            units = len(part.weight)  # type: ignore[arg-type]
            rule = Standardized(units, gamma if index else 1.0)
            parametrize.register_parametrization(part, "weight", rule)


def gain_of(network: nn.Module) -> float:
    """γ = 1/√Var φ(z), z ~ N(0, 1), of the φ that a network declares."""
    found = {_declared(part) for part in network.modules()} - {None}
    names = {phi.name for phi in found if phi is not None}
    if len(names) != 1:
        return 1.0
    return gain(next(phi for phi in found if phi is not None))


def _declared(part: nn.Module) -> Activation | None:
    phi = getattr(part, "declared_activation", None)
    return phi if isinstance(phi, Activation) else None


@functools.cache
def gain(phi: Activation) -> float:
    """1/√Var φ(z), z ~ N(0, 1): √(2/(1 - 1/π)) for relu."""
    mean = expectation(phi.phi, 1.0, phi.kinks)
    square = expectation(lambda z: phi.phi(z) ** 2, 1.0, phi.kinks)
    return float((square - mean**2) ** -0.5)
