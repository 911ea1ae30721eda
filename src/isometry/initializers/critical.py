"""Initialization at the edge of chaos, computed for the activation at hand."""

from __future__ import annotations

import copy

from torch import Generator

from isometry.initializers.base import PerLayer, critical_point
from isometry.initializers.orthogonal import Orthogonal
from isometry.initializers.scaled import Distribution, fill
from isometry.layers.spec import LayerSpec


class Critical(PerLayer):
    """σ_w with χ₁ = 1 for the layers' own φ, whatever it is (`theory.critical`).

    Args:
        sigma_b: standard deviation of the biases, on which the critical σ_w depends; `auto`: 0, or
            that of the half-stable point where lengths do not stay at one without biases (gelu,
            silu, mish).
        distribution: `gaussian`, `uniform`, `truncated` or `orthogonal` weights.
    """

    sigma_w: float  # of a fitted one

    def __init__(self, sigma_b: float | str, distribution: Distribution | str):
        self.wanted = sigma_b
        self.distribution = distribution

    def fitted(self, layers: list[LayerSpec]) -> Critical:
        point = critical_point(layers, None if self.wanted == "auto" else float(self.wanted))
        fitted = copy.copy(self)
        fitted.sigma_w = point.sigma_w
        fitted.sigma_b = point.sigma_b
        return fitted

    def draw(self, spec: LayerSpec, generator: Generator) -> float:
        if self.distribution == "orthogonal":
            return Orthogonal(self.sigma_w, self.sigma_b).draw(spec, generator)
        fill(spec.weight, self.sigma_w / spec.fan_in**0.5, self.distribution, generator)
        return self.sigma_w
