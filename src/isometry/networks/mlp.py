"""The fully connected network of the vanishing-gradient literature."""

from __future__ import annotations

import itertools
import math

from torch import Tensor, nn

from isometry.activations import Activation
from isometry.networks.blocks import Layer, Network


class MLP(Network):
    """`depth` weighted layers: depth - 1 hidden ones of constant width, then the readout.

    Args:
        input_shape: of one image, whose units are taken in a row.
        num_classes, activation, normalization: as of every `Network`.
        depth: L, the number of weight matrices, the readout included (≥ 1).
        width: units of a hidden layer.
        bias: whether the layers carry biases.
        dropout: share of a hidden layer's units that is dropped in training (Srivastava et al.
            2014).
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
        dropout: float,
    ):
        sizes = [math.prod(input_shape), *[width] * (depth - 1)]
        hidden = [
            Layer(nn.Linear(n_in, n_out, bias=bias), activation, normalization, dropout)
            for n_in, n_out in itertools.pairwise(sizes)
        ]
        super().__init__([*hidden, Layer(nn.Linear(sizes[-1], num_classes, bias=bias))])

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))
