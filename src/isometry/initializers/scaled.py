"""Independent weights whose scale follows the fans."""

from __future__ import annotations

import math
from typing import Literal

from torch import Generator, Tensor, nn

from isometry.initializers.base import PerLayer
from isometry.layers.spec import LayerSpec

Distribution = Literal["gaussian", "uniform", "truncated"]

TRUNCATED_STD = 0.8796256610342398
"""Standard deviation of N(0, 1) cut at ±2: √(1 - 4φ(2)/(2Φ(2) - 1))."""


def fill(weight: Tensor, std: float, distribution: str, generator: Generator) -> None:
    """Independent entries of mean 0 and standard deviation `std`: `gaussian`, `uniform`, or a
    Gaussian `truncated` at ±2 of its own deviations, widened so that `std` holds after the cut."""
    if distribution == "uniform":
        weight.uniform_(-math.sqrt(3) * std, math.sqrt(3) * std, generator=generator)
    elif distribution == "truncated":
        wide = std / TRUNCATED_STD
        nn.init.trunc_normal_(weight, 0.0, wide, -2 * wide, 2 * wide, generator=generator)
    else:
        weight.normal_(0.0, std, generator=generator)


class Gaussian(PerLayer):
    """W ~ N(0, σ_w²/fan_in), b ~ N(0, σ_b²): the parametrization of mean-field theory."""

    def __init__(self, sigma_w: float, sigma_b: float, distribution: Distribution):
        self.sigma_w = sigma_w
        self.sigma_b = sigma_b
        self.distribution = distribution

    def draw(self, spec: LayerSpec, generator: Generator) -> float:
        fill(
            spec.weight,
            self.sigma_w / math.sqrt(spec.fan_in),
            self.distribution,
            generator,
        )
        return self.sigma_w


class Normal(PerLayer):
    """W ~ N(0, std²) whatever the fans: the naive choice. σ_w = std √fan_in."""

    def __init__(self, std: float, sigma_b: float):
        self.std = std
        self.sigma_b = sigma_b

    def draw(self, spec: LayerSpec, generator: Generator) -> float:
        fill(spec.weight, self.std, "gaussian", generator)
        return self.std * math.sqrt(spec.fan_in)


class Uniform(PerLayer):
    """W ~ U(-a, a) whatever the fans. σ_w = a √(fan_in/3)."""

    distribution = "uniform"

    def __init__(self, a: float, sigma_b: float):
        self.a = a
        self.sigma_b = sigma_b

    def draw(self, spec: LayerSpec, generator: Generator) -> float:
        fill(spec.weight, self.a / math.sqrt(3), "uniform", generator)
        return self.a * math.sqrt(spec.fan_in / 3)


class FanScaled(PerLayer):
    """Standard deviation gain/√fan: LeCun 1998 and He et al. 2015 (fan_in), Glorot & Bengio 2010
    (mean of the fans).

    Args:
        mode: `fan_in`, `fan_out` or `fan_avg`.
        gain: factor on the standard deviation; √2 with `fan_in` is He's; `auto`: χ₁ = 1 for the
            network's φ.
        distribution: `gaussian`, `uniform` or `truncated`.
        sigma_b: standard deviation of the biases.
    """

    def __init__(
        self,
        mode: Literal["fan_in", "fan_out", "fan_avg"],
        gain: float | Literal["auto"],
        distribution: Distribution,
        sigma_b: float,
    ):
        self.gain: float | str = gain
        self.mode = mode
        self.distribution = distribution
        self.sigma_b = sigma_b

    def draw(self, spec: LayerSpec, generator: Generator) -> float:
        fans = {
            "fan_in": spec.fan_in,
            "fan_out": spec.fan_out,
            "fan_avg": 0.5 * (spec.fan_in + spec.fan_out),
        }
        std = float(self.gain) / math.sqrt(fans[self.mode])
        fill(spec.weight, std, self.distribution, generator)
        return std * math.sqrt(spec.fan_in)


class TorchDefault(PerLayer):
    """torch's own `Linear` and `Conv2d` default: weights and biases from U(±1/√fan_in), that is
    σ_w² = 1/3.
    """

    distribution = "uniform"

    def draw(self, spec: LayerSpec, generator: Generator) -> float:
        fill(spec.weight, 1 / math.sqrt(3 * spec.fan_in), "uniform", generator)
        return 1 / math.sqrt(3)

    def draw_bias(self, spec: LayerSpec, generator: Generator) -> None:
        if spec.bias is not None:
            fill(spec.bias, 1 / math.sqrt(3 * spec.fan_in), "uniform", generator)

    def declared_sigma_b(self, spec: LayerSpec) -> float:
        return 0.0 if spec.bias is None else 1 / math.sqrt(3 * spec.fan_in)
