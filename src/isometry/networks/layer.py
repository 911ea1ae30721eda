"""One weighted layer and its entry in the layer map.

Every network is a sequence of :class:`Layer` objects and yields their :class:`LayerSpec` in forward order. Initializers,
signals and theory read that list and nothing else about the architecture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from isometry.activations import Activation

Weighted = nn.Linear | nn.Conv2d


class Probe(Protocol):
    """What a layer shows of itself while it computes; `isometry.signals` implements it.

    Attributes:
        keeps_all: whether it keeps all tensors it is shown, so that computing them again later would save no memory.
    """

    keeps_all: bool

    def preactivation(self, layer: int, x: Tensor, h: Tensor) -> Tensor:
        """Called with the input x and the preactivation h of a layer; returns what the layer goes on with."""

    def activation(self, layer: int, z: Tensor, a: Tensor) -> None:
        """Called with the argument z of φ (h after normalization) and a = φ(z)."""


@dataclass
class LayerSpec:
    """One entry of the layer map.

    Attributes:
        index: 1..L in forward order.
        name: the module's path, e.g. `layers.3`.
        kind: `hidden` or `readout`.
        map: `linear` or `conv`.
        weighted: the weighted map itself (its `weight` and `bias` are the layer's parameters).
        fan_in, fan_out: connections into an output unit and out of an input unit (He et al. 2015, eqs. 7 and 11).
        activation: φ of this layer, None for the readout.
        normalization: `none`, `batch`, `layer` or `rms`.
        sigma_w, sigma_b: what the initializer *declared*: Var W = σ_w²/fan_in, Var b = σ_b²; None before initialization.
        distribution: the declared shape of the weights (`gaussian`, `uniform`, `orthogonal`, ...).
        branch: the residual branch this layer stands in, None outside of one.
        uses: how often the layer is applied in one forward pass (weight sharing).
    """

    index: int
    name: str
    kind: Literal["hidden", "readout"]
    weighted: Weighted = field(repr=False)
    activation: Activation | None = None
    normalization: str = "none"
    sigma_w: float | None = None
    sigma_b: float | None = None
    distribution: str | None = None
    branch: int | None = None
    uses: int = 1

    @property
    def weights(self) -> list[nn.Parameter]:
        """The parameters behind the weight: itself, or the originals of a parametrization (weight norm, say)."""
        return self._behind("weight")

    @property
    def biases(self) -> list[nn.Parameter]:
        """The parameters behind the bias; empty without one."""
        return [] if self.weighted.bias is None else self._behind("bias")

    def _behind(self, name: str) -> list[nn.Parameter]:
        if parametrize.is_parametrized(self.weighted, name):
            return list(self.weighted.parametrizations[name].parameters(recurse=False))  # type: ignore[index, union-attr, operator]
        return [getattr(self.weighted, name)]

    @property
    def map(self) -> Literal["linear", "conv"]:
        return "conv" if isinstance(self.weighted, nn.Conv2d) else "linear"

    @property
    def fan_in(self) -> int:
        return self.weighted.weight[0].numel()

    @property
    def fan_out(self) -> int:
        weight = self.weighted.weight
        return weight.shape[0] * math.prod(weight.shape[2:])

    def declare(self, sigma_w: float, sigma_b: float, distribution: str) -> None:
        """Note what the initializer drew, in the units of mean-field theory."""
        self.sigma_w, self.sigma_b, self.distribution = float(sigma_w), float(sigma_b), distribution


class Layer(nn.Module):
    """h = W x + b, z = normalization(h), a = φ(z)."""

    def __init__(self, weighted: Weighted, activation: Activation | None = None, normalization: str = "none"):
        super().__init__()
        self.weighted = weighted
        self.normalization = make_normalization(normalization, weighted)
        self.activation = None if activation is None else activation.module()
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
    """A network whose layers are all in `self.layers`, the readout last."""

    layers: nn.ModuleList
    activation_checkpointing = False  # recompute each layer's forward pass in the backward pass: less memory, more time

    def finish(self, layers: list[Layer]) -> None:
        """Take the layers in forward order and number them; the last one is the readout.

        A layer that stands in the list more than once is one layer, numbered at its first place.
        """
        self.layers = nn.ModuleList(layers)
        distinct = list(dict.fromkeys(layers))
        for index, layer in enumerate(distinct, start=1):
            layer.spec.index, layer.spec.name = index, f"layers.{layers.index(layer)}"
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
        if not self.activation_checkpointing or not torch.is_grad_enabled() or (probe is not None and probe.keeps_all):
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
    """a and ‖h‖ of a layer. Returned, as a checkpoint that is compiled may change nothing outside of itself; and not h, which
    would then be in memory after all."""
    probe = SizeProbe()
    a = layer(x, probe)
    return a, probe.size


class ChannelNorm(nn.Module):
    """Layer or RMS normalization over all units of an example (channels and positions of a feature map alike)."""

    def __init__(self, units: int, centre: bool, eps: float = 1e-5):
        super().__init__()
        self.centre, self.eps = centre, eps
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
