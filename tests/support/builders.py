"""Networks and initializers with arguments that a test is not about.

The classes have no defaults of their own: those stand in `conf/`.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from isometry import activations, initializers
from isometry.activations import Activation
from isometry.layers.discover import layer_map, layers_of, remember
from isometry.layers.spec import LayerSpec
from isometry.networks.blocks import Network
from isometry.networks.convnet import ConvNet
from isometry.networks.mlp import MLP
from isometry.signals.recorder import Recorder


def mlp(
    shape: tuple[int, ...],
    classes: int,
    phi: Activation,
    normalization: str = "none",
    depth: int = 4,
    width: int = 6,
    kind: type[MLP] = MLP,
    bias: bool = True,
    dropout: float = 0.0,
) -> MLP:
    network = kind(shape, classes, phi, normalization, depth, width, bias, dropout)
    return with_example(network, shape)


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
    network = ConvNet(shape, classes, phi, normalization, padding=padding, **size, **more)
    return with_example(network, shape)


def with_example(network: Network, shape: tuple[int, ...]) -> Network:
    """The network, which knows what it takes, and its layers."""
    network.example = torch.zeros(2, *shape)
    remember(network, network.example)
    return network


def map_of(network: nn.Module) -> list[LayerSpec]:
    """The layer map as the network is now."""
    if not hasattr(network, "example"):
        return layers_of(network)
    return layer_map(network, network.example.to(next(network.parameters())))


def recorder_of(network: nn.Module, *args: Any, **kwargs: Any) -> Recorder:
    """A recorder of the network as it is now."""
    return Recorder(network, map_of(network), *args, **kwargs)


def shown(
    recorder: Recorder, network: nn.Module, x: Tensor, recorded: bool = True, replay: Any = None
) -> Tensor:
    """The network's answer to a micro-batch that the recorder sees."""
    recorder.begin(recorded, len(x), replay)
    return network(x)


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


def critical(distribution: str = "gaussian", sigma_b: float | str = 0.0) -> initializers.Critical:
    return initializers.Critical(sigma_b, distribution)


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
