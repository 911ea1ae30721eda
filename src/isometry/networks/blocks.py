"""What networks are built from: a weighted layer with its normalization and activation, and a
sequence of them.

Every network yields the :class:`LayerSpec` of each layer in forward order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from isometry.activations import Activation
from isometry.layers.probed import LayerSpec, Probe, Weighted


class Layer(nn.Module):
    """h = W x + b, z = normalization(h), a = φ(z)."""

    def __init__(
        self, weighted: Weighted, activation: Activation | None = None, normalization: str = "none"
    ):
        super().__init__()
        self.weighted = weighted
        self.normalization = make_normalization(normalization, weighted)
        self.activation = None if activation is None else activation.fresh()
        self.spec = LayerSpec(0, "", "hidden", weighted, activation, normalization)

    def forward(self, x: Tensor, probe: Probe | None = None) -> Tensor:
        h = self.weighted(x)
        if probe is not None:
            h = probe.preactivation(self.spec.index, x, h)
        z = h if self.normalization is None else self.normalization(h)
        a = z if self.activation is None else self.activation(z)
        if probe is not None:
            probe.activation(self.spec.index, z, a)
        return a


class Network(nn.Module):
    """A network whose layers are all in `self.layers`, the readout last.

    Every one is built with `input_shape` (of one image), `num_classes` (units of the readout),
    `activation` (φ of the hidden layers), `normalization` (of the hidden preactivations, one of
    `NORMALIZATIONS`), and what else its config says.
    """

    layers: nn.ModuleList
    # recompute each layer's forward pass in the backward pass: less memory, more time
    activation_checkpointing = False

    def finish(self, layers: list[Layer]) -> None:
        """Take the layers in forward order and number them; the last one is the readout.

        A layer that stands in the list more than once is one layer, numbered at its first place.
        """
        self.layers = nn.ModuleList(layers)
        distinct = list(dict.fromkeys(layers))
        for index, layer in enumerate(distinct, start=1):
            layer.spec.index = index
            layer.spec.name = f"layers.{layers.index(layer)}"
            layer.spec.kind = "readout" if layer is layers[-1] else "hidden"
            layer.spec.uses = layers.count(layer)

    def layer_map(self) -> list[LayerSpec]:
        """The layers in forward order, 1..L."""
        return [layer.spec for layer in dict.fromkeys(self.layers) if isinstance(layer, Layer)]

    def forward(self, x: Tensor, probe: Probe | None = None) -> Tensor:
        """Images [batch, channels, height, width] to logits [batch, classes]."""
        for layer in self.layers:
            x = self.run(layer, x, probe)
        return x

    def run(self, layer: nn.Module, x: Tensor, probe: Probe | None) -> Tensor:
        """One layer, checkpointed if wanted; what a subclass with its own `forward` calls."""
        if (
            not self.activation_checkpointing
            or not torch.is_grad_enabled()
            or (probe is not None and probe.keeps_all)
        ):
            return layer(x, probe)  # type: ignore[no-any-return]
        if probe is None or not isinstance(layer, Layer):
            return checkpoint(layer, x, probe, use_reentrant=False)  # type: ignore[no-any-return]
        a, size = checkpoint(with_size, layer, x, use_reentrant=False)
        probe.preactivation(layer.spec.index, x, size)
        return a  # type: ignore[no-any-return]


class SizeProbe:
    """Keeps ‖h‖ of one layer."""

    keeps_all = False

    def preactivation(self, layer: int, x: Tensor, h: Tensor) -> Tensor:
        self.size = torch.linalg.vector_norm(h.detach(), dtype=torch.float64)
        return h

    def activation(self, layer: int, z: Tensor, a: Tensor) -> None:
        pass


def with_size(layer: Layer, x: Tensor) -> tuple[Tensor, Tensor]:
    """a and ‖h‖ of a layer. Returned, as a checkpoint that is compiled may change nothing outside
    of itself; and not h, which would then be in memory after all."""
    probe = SizeProbe()
    a = layer(x, probe)
    return a, probe.size


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


def make_normalization(kind: str, weighted: Weighted) -> nn.Module | None:
    """The normalization of one layer's preactivations; None for `none`.

    Raises:
        ValueError: for a kind that is not in `NORMALIZATIONS`.
    """
    units = weighted.weight.shape[0]
    if kind == "none":
        return None
    if kind == "batch":
        return nn.BatchNorm2d(units) if isinstance(weighted, nn.Conv2d) else nn.BatchNorm1d(units)
    if kind in ("layer", "rms"):
        return ChannelNorm(units, centre=kind == "layer")
    raise ValueError(f"normalization.kind={kind!r}: allowed are {', '.join(NORMALIZATIONS)}")
