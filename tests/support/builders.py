"""Networks and initializers with arguments that a test is not about.

The classes have no defaults of their own: those stand in `conf/`.
"""

from __future__ import annotations

import functools

from isometry import activations, initializers
from isometry.activations import Activation
from isometry.networks.convnet import ConvNet
from isometry.networks.mlp import MLP


def mlp(
    shape: tuple[int, ...],
    classes: int,
    phi: Activation,
    normalization: str = "none",
    depth: int = 4,
    width: int = 6,
    kind: type[MLP] = MLP,
    bias: bool = True,
) -> MLP:
    return kind(shape, classes, phi, normalization, depth, width, bias)


def convnet(
    shape: tuple[int, ...],
    classes: int,
    phi: Activation,
    normalization: str = "none",
    depth: int = 4,
    channels: int = 4,
    padding: str = "circular",
    stages: int = 2,
) -> ConvNet:
    more = {"kernel_size": 3, "channel_multiplier": 2, "bias": True}
    size = {"depth": depth, "channels": channels, "stages": stages}
    return ConvNet(shape, classes, phi, normalization, padding=padding, **size, **more)


def fan_scaled(
    mode: str = "fan_in",
    gain: float | str = 1.0,
    distribution: str = "gaussian",
    sigma_b: float = 0.0,
) -> initializers.FanScaled:
    return initializers.FanScaled(mode, gain, distribution, sigma_b)


def gaussian(
    sigma_w: float, sigma_b: float = 0.0, distribution: str = "gaussian"
) -> initializers.Gaussian:
    return initializers.Gaussian(sigma_w, sigma_b, distribution)


def critical(distribution: str = "gaussian") -> initializers.Critical:
    return initializers.Critical(0.0, distribution)


def orthogonal(gain: float | str = 1.0) -> initializers.Orthogonal:
    return initializers.Orthogonal(gain, 0.0)


def identity(gain: float = 1.0) -> initializers.Identity:
    return initializers.Identity(gain, 0.0, "gaussian")


PARAMETERS = {"leaky_relu": 0.01, "elu": 1.0, "prelu": 0.25, "celu": 1.0, "swish": 1.0}
"""The literature's, of activations that have one."""


@functools.cache
def phi_of(name: str) -> Activation:
    """An activation by its name; one object a process, which has its moments integrated once."""
    make = getattr(activations, name)
    return make(PARAMETERS[name]) if name in PARAMETERS else make()
