"""The plain convolutional networks of He et al. 2015 (table 3)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from isometry.activations import Activation
from isometry.networks.blocks import Layer, Network
from isometry.networks.residual import blocks_of

READOUTS = 3


class VGG(Network):
    """`depth` layers: a convolution, stages of 3 x 3 convolutions with a pooling before each, two
    wide layers, the readout.

    The paper's A has 19 layers (5 a stage), B 22 (6 a stage), C 22 with more channels; each opens
    with 96 kernels of 7 x 7 at stride 2.

    Args:
        input_shape: (channels, height, width) of one image.
        num_classes, activation, normalization: as of every `Network`.
        depth: 4 and a multiple of the number of stages.
        stem: kernels of the first convolution.
        stem_stride: its stride.
        kernel_size: its odd side.
        stage_channels: kernels of each stage.
        width: units of the two wide layers.
        bias: whether the layers carry biases.
        dropout: share of the wide layers' units that is dropped in training.

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
        stem: int,
        stem_stride: int,
        kernel_size: int,
        stage_channels: Sequence[int],
        width: int,
        bias: bool,
        dropout: float,
    ):
        each = blocks_of(depth, len(stage_channels), 1 + READOUTS)

        def convolution(n_in: int, n_out: int, size: int, stride: int = 1) -> Layer:
            weighted = nn.Conv2d(n_in, n_out, size, stride, size // 2, bias=bias)
            return Layer(weighted, activation, normalization)

        layers: list[nn.Module] = [convolution(input_shape[0], stem, kernel_size, stem_stride)]
        for n_in, n_out in itertools.pairwise([stem, *stage_channels]):
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            layers += [convolution(n_in if k == 0 else n_out, n_out, 3) for k in range(each)]
        side = _side_after(input_shape[1:], stem_stride, len(stage_channels))
        units = stage_channels[-1] * side[0] * side[1]
        for n_in in (units, width):
            wide = nn.Linear(n_in, width, bias=bias)
            layers.append(Layer(wide, activation, normalization, dropout))
        super().__init__([*layers, Layer(nn.Linear(width, num_classes, bias=bias))])

    def forward(self, x: Tensor) -> Tensor:
        *features, first, second, readout = self.layers
        for layer in features:
            x = self.run(layer, x)
        x = x.flatten(1)
        for layer in (first, second, readout):
            x = self.run(layer, x)
        return x


def _side_after(side: Sequence[int], stride: int, stages: int) -> list[int]:
    """Height and width behind the stem and the poolings, each rounded up."""
    return [math.ceil(math.ceil(length / stride) / 2**stages) for length in side]
