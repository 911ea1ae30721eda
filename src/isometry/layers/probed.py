"""One entry of the layer map.

Initializers, signals and theory read the list of them, in forward order, and nothing else about the
architecture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor, nn
from torch.nn.utils import parametrize

from isometry.activations import Activation

Weighted = nn.Linear | nn.Conv2d


class Probe(Protocol):
    """What a layer shows of itself while it computes; `isometry.signals` implements it.

    Attributes:
        keeps_all: whether it keeps all tensors it is shown, so that computing them again later
            would save no memory.
    """

    keeps_all: bool

    def preactivation(self, layer: int, x: Tensor, h: Tensor) -> Tensor:
        """Called with the input x and the preactivation h of a layer; returns what the layer goes
        on with.
        """

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
        fan_in, fan_out: connections into an output unit and out of an input unit (He et al. 2015,
            eqs. 7 and 11).
        activation: φ of this layer, None for the readout.
        normalization: `none`, `batch`, `layer` or `rms`.
        sigma_w, sigma_b: what the initializer *declared*: Var W = σ_w²/fan_in, Var b = σ_b²; None
            before initialization.
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
        """The parameters behind the weight: itself, or the originals of a parametrization (weight
        norm, say).
        """
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
        self.sigma_w = float(sigma_w)
        self.sigma_b = float(sigma_b)
        self.distribution = distribution
