"""Fixup: residual networks without normalization (Zhang, Dauphin & Ma 2019, sec. 3)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from isometry.layers.spec import LayerSpec
from isometry.networks.blocks import Layer
from isometry.networks.residual import Residual
from isometry.remedies.base import Remedy, blank, maps_in, rescale, specs_of


class Shift(nn.Module):
    """x + b with one learned number, 0 at first."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class Fixup(Remedy):
    """The paper's three rules: the readout and the last layer of each branch begin at 0; the other
    layers of a branch are scaled by L^(-1/(2m-2)), L branches of m layers; each branch has a
    learned factor (1 at first), each layer and activation a learned number added before it.
    """

    def alter(self, network: nn.Module) -> None:
        residuals = self.residuals(network)
        self.refuse_norms(network)
        self.refuse_scales(residuals)
        self.refuse_attention(network, "remedy=tfixup")
        if min(len(maps_in(each.branch)) for each in residuals) < 2:
            raise self.refuse("needs 2 layers or more in a branch (its exponent is -1/(2m-2))")
        for residual in residuals:
            residual.learn_scale(1.0)
            if residual.after is not None:
                residual.after = nn.Sequential(Shift(), residual.after)
        for part in list(network.modules()):
            if isinstance(part, Layer):
                _shift(part)

    def begin(self, network: nn.Module, layers: list[LayerSpec], generator: Generator) -> None:
        residuals = self.residuals(network)
        for residual in residuals:
            self._scale_branch(residual, layers, len(residuals))
        for spec in layers:
            if spec.kind == "readout":
                blank(spec)

    def _scale_branch(self, residual: Residual, layers: list[LayerSpec], branches: int) -> None:
        *inner, last = specs_of(maps_in(residual.branch), layers)
        factor = branches ** (-1 / (2 * len(inner)))
        for spec in inner:
            rescale(spec, factor)
        blank(last)


def _shift(layer: Layer) -> None:
    """A learned number before the map, and one before φ."""
    layer.weighted = nn.Sequential(Shift(), layer.weighted)
    if layer.activation is not None:
        layer.activation = nn.Sequential(Shift(), layer.activation)
