"""A fully connected network with shortcuts."""

from __future__ import annotations

import math

from torch import Tensor, nn

from isometry.activations import Activation
from isometry.networks.blocks import Layer, Network, PreLayer
from isometry.networks.residual import (
    Order,
    Residual,
    Scale,
    blocks_of,
    branch_scale,
    make_branch,
)


class ResidualMLP(Network):
    """`depth` weighted layers: one into the trunk, blocks of `block_depth` beside it, the readout.

    Args:
        input_shape: of one image, whose units are taken in a row.
        num_classes, activation, normalization: as of every `Network`.
        depth: L, the number of weight matrices: 2 and a multiple of `block_depth`.
        width: units of the trunk and of the branches.
        bias: whether the layers carry biases.
        dropout: share of a branch's units that is dropped in training.
        block_depth: layers of a branch.
        order: `pre`: normalization and φ before each map of a branch; `post`: behind it, those of
            the last one behind the sum.
        scale: α, the factor on a branch, or `auto`.

    Raises:
        UserError: for another depth.
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
        block_depth: int,
        order: Order,
        scale: Scale,
    ):
        blocks = blocks_of(depth, block_depth, 2)
        alpha = branch_scale(scale, blocks)

        def block() -> Residual:
            maps = [nn.Linear(width, width, bias=bias) for _ in range(block_depth)]
            branch = make_branch(maps, activation, normalization, order, dropout)
            return Residual(branch, None, activation.fresh() if order == "post" else None, alpha)

        first = nn.Linear(math.prod(input_shape), width, bias=bias)
        last = nn.Linear(width, num_classes, bias=bias)
        post = order == "post"
        stem = Layer(first, activation, normalization) if post else Layer(first)
        readout = Layer(last) if post else PreLayer(last, activation, normalization)
        super().__init__([stem, *(block() for _ in range(blocks)), readout])

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))
