"""Highway networks: a gate decides how much of a layer's input is carried on (Srivastava et al.
2015).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from isometry.activations import Activation
from isometry.errors import bad_value
from isometry.networks.blocks import Layer, Network


class Highway(nn.Module):
    """y = T(x) H(x) + (1 - T(x)) x with T(x) = sigmoid(W x + b + b_T).

    b_T is a constant, so that whatever initializer draws b the gate begins there: with b = 0 the
    paper's network, and step for step its training.
    """

    def __init__(self, layer: Layer, width: int, gate_bias: float):
        super().__init__()
        self.layer = layer
        self.gate = nn.Linear(width, width)
        self.gate_bias = gate_bias

    def forward(self, x: Tensor) -> Tensor:
        opened = torch.sigmoid(self.gate(x) + self.gate_bias)
        return opened * self.layer(x) + (1 - opened) * x


class HighwayMLP(Network):
    """`depth` layers: one into the trunk, depth - 2 highway layers, the readout. The gates are
    layers of the map, too, and not counted here.

    Args:
        input_shape: of one image, whose units are taken in a row.
        num_classes, activation, normalization: as of every `Network`.
        depth: as the paper counts (≥ 2).
        width: units of the trunk.
        bias: whether the layers carry biases; gates do.
        gate_bias: b_T; the deeper the network, the more negative (the paper: -4 for 100 layers).

    Raises:
        UserError: for a depth under 2.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        activation: Activation,
        normalization: str,
        depth: int,
        width: int,
        bias: bool,
        gate_bias: float,
    ):
        if depth < 2:
            raise bad_value("model.depth", depth, "must be at least 2 for model=highway")
        stem = Layer(nn.Linear(math.prod(input_shape), width, bias=bias), activation, normalization)
        layers = [
            Layer(nn.Linear(width, width, bias=bias), activation, normalization)
            for _ in range(depth - 2)
        ]
        trunk = [Highway(layer, width, gate_bias) for layer in layers]
        super().__init__([stem, *trunk, Layer(nn.Linear(width, num_classes, bias=bias))])

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))
