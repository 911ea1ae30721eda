"""The residual networks for small images (He et al. 2016, sec. 4.2), and their plain twins."""

from __future__ import annotations

import itertools
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

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

STAGES = 3
PER_BLOCK = 2


class Subsample(nn.Module):
    """Option A: every second pixel, and channels of zeros; no weights."""

    def __init__(self, stride: int, more: int):
        super().__init__()
        self.stride = stride
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        kept = x[:, :, :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0, 0, 0, 0, self.more))


class ResNet(Network):
    """`depth` = 6n + 2 layers: a convolution, three stages of n blocks of two, the readout.

    Args:
        input_shape: (channels, height, width) of one image.
        num_classes, activation, normalization: as of every `Network`.
        depth: 6n + 2; convolutions of shortcuts are not counted.
        channels: of the first stage; each later one has twice as many on half the side.
        bias: whether the convolutions carry biases.
        shortcut: where the shape changes, `A`: subsampled and padded with zeros, `B`: a 1 x 1
            convolution; `none`: no shortcut anywhere, the plain twin.
        order: `post`: φ behind the sum (2015), or `pre`: normalization and φ before each
            convolution of a branch (2016).
        scale: α, the factor on a branch, or `auto`.

    Raises:
        UserError: for another depth.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        activation: Activation,
        normalization: str,
        depth: int,
        channels: int,
        bias: bool,
        shortcut: Literal["A", "B", "none"],
        order: Order,
        scale: Scale,
    ):
        count = blocks_of(depth, STAGES * PER_BLOCK, 2)
        alpha = branch_scale(scale, STAGES * count)
        widths = [channels * 2**stage for stage in range(STAGES) for _ in range(count)]

        def block(n_in: int, n_out: int) -> nn.Module:
            stride = n_out // n_in
            maps = [_convolution(n_in, n_out, stride, bias), _convolution(n_out, n_out, 1, bias)]
            if shortcut == "none":
                kind = Layer if order == "post" else PreLayer
                return nn.Sequential(*(kind(each, activation, normalization) for each in maps))
            branch = make_branch(maps, activation, normalization, order)
            beside = _shortcut(shortcut, n_in, n_out, normalization if order == "post" else "none")
            return Residual(branch, beside, activation.fresh() if order == "post" else None, alpha)

        first = _convolution(input_shape[0], channels, 1, bias)
        post = order == "post"
        stem = Layer(first, activation, normalization) if post else Layer(first)
        blocks = [block(n_in, n_out) for n_in, n_out in itertools.pairwise([channels, *widths])]
        end = [] if post else [Ending(widths[-1], activation, normalization)]
        super().__init__([stem, *blocks, *end, Layer(nn.Linear(widths[-1], num_classes))])

    def forward(self, x: Tensor) -> Tensor:
        *trunk, readout = self.layers
        for layer in trunk:
            x = self.run(layer, x)
        return self.run(readout, x.mean((2, 3)))


class Ending(PreLayer):
    """Normalization and φ of the trunk's end, in pre-activation order."""

    def __init__(self, channels: int, activation: Activation, normalization: str):
        super().__init__(nn.Conv2d(channels, 1, 1), activation, normalization)
        self.weighted = nn.Identity()


def _convolution(n_in: int, n_out: int, stride: int, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, stride, 1, bias=bias)


def _shortcut(kind: str, n_in: int, n_out: int, normalization: str) -> nn.Module | None:
    if n_in == n_out:
        return None
    if kind == "A":
        return Subsample(n_out // n_in, n_out - n_in)
    return Layer(nn.Conv2d(n_in, n_out, 1, n_out // n_in, bias=False), None, normalization)
