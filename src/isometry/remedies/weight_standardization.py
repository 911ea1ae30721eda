"""Scaled weight standardization (Brock, De & Smith 2021, "Characterizing signal propagation", sec.
4.2).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from isometry.activations import Activation
from isometry.remedies.base import MAPS, Remedy
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
    """Standardizes each weight but the readout's. γ is that of the network's own φ, and 1 where it
    has none, or several.
    """

    def alter(self, network: nn.Module) -> None:
        maps = [part for part in network.modules() if isinstance(part, MAPS)]
        gamma = gain_of(network)
        for part in maps[:-1]:
            rule = Standardized(len(part.weight), gamma)
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
