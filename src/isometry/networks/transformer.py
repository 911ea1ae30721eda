"""Small transformers: on the patches of an image, and on text, character by character."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isometry.activations import Activation
from isometry.errors import bad_value
from isometry.networks.attention import Attention, FeedForward, Place, norm_of, sublayer
from isometry.networks.blocks import Layer, Network
from isometry.networks.residual import Scale, branch_scale

FEED_FORWARD = 4
"""Units inside of a feed-forward sublayer for each of the trunk (Vaswani et al. 2017)."""


def trunk(
    depth: int,
    width: int,
    heads: int,
    causal: bool,
    activation: Activation,
    kind: str,
    place: Place,
    scale: Scale,
    attention_scale: float | None,
) -> list[nn.Module]:
    """`depth` blocks of attention and feed-forward, and the norm of the end where branches are
    normalized before.

    Raises:
        UserError: where the heads cannot share the width.
    """
    if width % heads:
        raise bad_value("model.heads", heads, f"must divide model.width={width}")
    alpha = branch_scale(scale, 2 * depth)
    parts: list[nn.Module] = []
    for _ in range(depth):
        attention = Attention(width, heads, causal, attention_scale)
        parts.append(sublayer(attention, width, place, kind, alpha))
        feed_forward = FeedForward(width, FEED_FORWARD * width, activation)
        parts.append(sublayer(feed_forward, width, place, kind, alpha))
    return [*parts, nn.Identity() if place == "post" else norm_of(kind, width)]


class Positioned(nn.Module):
    """What goes in as vectors, and a learned vector for each position."""

    def __init__(self, into: nn.Module, positions: int, width: int):
        super().__init__()
        self.into = into
        self.position = nn.Parameter(torch.randn(positions, width) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.into(x) + self.position  # type: ignore[no-any-return]


class Patches(nn.Module):
    """Images as sequences of flattened squares, each mapped to a vector."""

    def __init__(self, channels: int, side: int, width: int):
        super().__init__()
        self.unfold = nn.Unfold(side, stride=side)
        self.weighted = nn.Linear(channels * side**2, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.weighted(self.unfold(x).transpose(1, 2))  # type: ignore[no-any-return]


class ViT(Network):
    """A vision transformer (Dosovitskiy et al. 2021) that averages over positions.

    Args:
        input_shape: (channels, height, width) of one image.
        num_classes, activation, normalization: as of every `Network`; the latter of `layer`, `rms`,
            `none`.
        depth: blocks, each of an attention and a feed-forward sublayer.
        width: units of a position.
        heads: of the attention.
        patch: side of the squares.
        norm_place: `pre`, `post` or `sandwich`.
        scale: α, the factor on a branch, or `auto`.
        attention_scale: factor on q·k; None: 1/√(units of a head).

    Raises:
        UserError: where patches or heads do not divide what they share.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        activation: Activation,
        normalization: str,
        depth: int,
        width: int,
        heads: int,
        patch: int,
        norm_place: Place,
        scale: Scale,
        attention_scale: float | None,
    ):
        channels, rows, columns = input_shape
        if rows % patch or columns % patch:
            raise bad_value("model.patch", patch, f"must divide the image's {rows} x {columns}")
        count = (rows // patch) * (columns // patch)
        stem = Positioned(Patches(channels, patch, width), count, width)
        how = (activation, normalization, norm_place, scale, attention_scale)
        blocks = trunk(depth, width, heads, False, *how)
        super().__init__([stem, *blocks, Layer(nn.Linear(width, num_classes))])

    def forward(self, x: Tensor) -> Tensor:
        *trunk, readout = self.layers
        for layer in trunk:
            x = self.run(layer, x)
        return self.run(readout, x.mean(1))


class Decoder(Network):
    """A transformer that predicts the next character at each position from those before (Radford
    et al. 2018).

    Args:
        input_shape: (positions,) of one text.
        num_classes: characters that may come.
        vocabulary: characters that may go in.
        activation, normalization, depth, width, heads, norm_place, scale, attention_scale: as of
            `ViT`.
    """

    def __init__(
        self,
        input_shape: tuple[int],
        num_classes: int,
        vocabulary: int,
        activation: Activation,
        normalization: str,
        depth: int,
        width: int,
        heads: int,
        norm_place: Place,
        scale: Scale,
        attention_scale: float | None,
    ):
        stem = Positioned(nn.Embedding(vocabulary, width), input_shape[0], width)
        how = (activation, normalization, norm_place, scale, attention_scale)
        blocks = trunk(depth, width, heads, True, *how)
        super().__init__([stem, *blocks, Layer(nn.Linear(width, num_classes))])

    def forward(self, x: Tensor) -> Tensor:
        """Characters [batch, positions] to logits [batch, classes, positions]."""
        return super().forward(x).transpose(1, 2)
