"""What networks are built from: a weighted layer with its normalization and activation, and a
sequence of them. They are plain torch modules and know nothing of measuring.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from isometry.activations import Activation

Weighted = nn.Linear | nn.Conv2d


class Layer(nn.Module):
    """h = W x + b, z = normalization(h), a = φ(z); a share of its units is dropped in training."""

    def __init__(
        self,
        weighted: Weighted,
        activation: Activation | None = None,
        normalization: str = "none",
        dropout: float = 0.0,
    ):
        super().__init__()
        self.weighted: nn.Module = weighted
        units = weighted.weight.shape[0]
        self.normalization = make_normalization(normalization, units, weighted)
        self.activation: nn.Module | None = None if activation is None else activation.fresh()
        self.dropout = nn.Dropout(dropout) if dropout else None

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.weighted(x))

    def act(self, x: Tensor) -> Tensor:
        """Normalization, φ and dropout, those that there are."""
        for part in (self.normalization, self.activation, self.dropout):
            x = x if part is None else part(x)
        return x


class PreLayer(Layer):
    """h = W φ(normalization(x)) + b: pre-activation (He et al. 2016, "Identity mappings", fig.
    4e). What it normalizes are its inputs.
    """

    def __init__(
        self,
        weighted: Weighted,
        activation: Activation | None = None,
        normalization: str = "none",
        dropout: float = 0.0,
    ):
        super().__init__(weighted, activation, "none", dropout)
        units = weighted.weight.shape[1]
        self.normalization = make_normalization(normalization, units, weighted)

    def forward(self, x: Tensor) -> Tensor:
        return self.weighted(self.act(x))  # type: ignore[no-any-return]


class Network(nn.Module):
    """A network whose layers are applied one after the other, the readout last.

    Every one is built with `input_shape` (of one image), `num_classes` (units of the readout),
    `activation` (φ of the hidden layers), `normalization` (of the hidden preactivations, one of
    `NORMALIZATIONS`), and what else its config says.

    Attributes:
        activation_checkpointing: recompute each layer's forward pass in the backward pass: less
            memory, more time.
    """

    activation_checkpointing = False

    def __init__(self, layers: Iterable[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Images [batch, channels, height, width] to logits [batch, classes]."""
        for layer in self.layers:
            x = self.run(layer, x)
        return x

    def run(self, layer: nn.Module, x: Tensor) -> Tensor:
        """One layer, checkpointed if wanted; what a subclass with its own `forward` calls."""
        if not self.activation_checkpointing or not torch.is_grad_enabled():
            return layer(x)  # type: ignore[no-any-return]
        return checkpoint(layer, x, use_reentrant=False)  # type: ignore[no-any-return]


class ChannelNorm(nn.Module):
    """Layer or RMS normalization over all units of an example (channels and positions of a feature
    map alike).
    """

    def __init__(self, units: int, centre: bool, eps: float = 1e-5):
        super().__init__()
        self.centre = centre
        self.normalizes = "layer" if centre else "rms"  # what the layer map calls it
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(units))
        self.bias = nn.Parameter(torch.zeros(units)) if centre else None

    def forward(self, x: Tensor) -> Tensor:
        dims = tuple(range(1, x.dim()))
        if self.centre:
            x = x - x.mean(dims, keepdim=True)
        x = x * torch.rsqrt(x.square().mean(dims, keepdim=True) + self.eps)
        shape = (1, -1) + (1,) * (x.dim() - 2)
        x = x * self.weight.view(shape)
        return x if self.bias is None else x + self.bias.view(shape)


NORMALIZATIONS = ("none", "batch", "layer", "rms")


def make_normalization(kind: str, units: int, weighted: Weighted) -> nn.Module | None:
    """The normalization of one layer's preactivations or inputs; None for `none`.

    Args:
        kind: one of `NORMALIZATIONS`.
        units: how many it normalizes; channels of a feature map.
        weighted: the map, which says whether they are channels.

    Raises:
        ValueError: for another kind.
    """
    if kind == "none":
        return None
    if kind == "batch":
        return nn.BatchNorm2d(units) if isinstance(weighted, nn.Conv2d) else nn.BatchNorm1d(units)
    if kind in ("layer", "rms"):
        return ChannelNorm(units, centre=kind == "layer")
    raise ValueError(f"normalization.kind={kind!r}: allowed are {', '.join(NORMALIZATIONS)}")
