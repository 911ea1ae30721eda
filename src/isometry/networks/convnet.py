"""A plain convolutional network without shortcuts."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from isometry.activations import Activation
from isometry.networks.blocks import Layer, Network


class ConvNet(Network):
    """`depth` weighted layers: depth - 1 convolutions, a global average, then a linear readout.

    Args:
        input_shape: (channels, height, width) of one image.
        num_classes, activation, normalization: as of every `Network`.
        depth: L, the number of weighted layers, the readout included (≥ 2).
        channels: channels of the first stage.
        kernel_size: odd side of the kernels; the padding keeps the image's size.
        padding: `circular` (no energy is lost at the border; what the theory assumes) or `zeros`.
        stages: the convolutions are split evenly into so many stages; each after the first opens
            with stride 2.
        channel_multiplier: factor on the channels from stage to stage.
        bias: whether the layers carry biases.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        activation: Activation,
        normalization: str,
        depth: int,
        channels: int,
        kernel_size: int,
        padding: Literal["circular", "zeros"],
        stages: int,
        channel_multiplier: int,
        bias: bool,
    ):
        widths, strides = stage_plan(depth - 1, channels, stages, channel_multiplier)
        layers = [
            Layer(
                nn.Conv2d(
                    n_in,
                    n_out,
                    kernel_size,
                    stride,
                    kernel_size // 2,
                    padding_mode=padding,
                    bias=bias,
                ),
                activation,
                normalization,
            )
            for n_in, n_out, stride in zip(
                [input_shape[0], *widths[:-1]], widths, strides, strict=True
            )
        ]
        super().__init__([*layers, Layer(nn.Linear(widths[-1], num_classes, bias=bias))])

    def forward(self, x: Tensor) -> Tensor:
        *convolutions, readout = self.layers
        for layer in convolutions:
            x = self.run(layer, x)
        return self.run(readout, x.mean((2, 3)))


def stage_plan(
    convolutions: int, channels: int, stages: int, multiplier: int
) -> tuple[list[int], list[int]]:
    """Channels and strides of each convolution; a stage opens with stride 2, the first with stride
    1.
    """
    stage = [index * stages // convolutions for index in range(convolutions)]
    widths = [channels * multiplier**s for s in stage]
    strides = [
        2 if s != previous else 1 for s, previous in zip(stage, [0, *stage[:-1]], strict=True)
    ]
    return widths, strides
