"""Weights with a structure: the identity, sparse rows, mirrored blocks."""

from __future__ import annotations

import copy
import math
from typing import Literal

import numpy as np
import torch
from torch import Generator, nn

from isometry.activations import Activation
from isometry.initializers.base import InitializerError, PerLayer
from isometry.initializers.scaled import fill
from isometry.layers.spec import LayerSpec


class Identity(PerLayer):
    """gain times the identity in every hidden layer (Le et al. 2015 for recurrences).

    Args:
        gain: factor on the identity.
        sigma_b: standard deviation of the biases.
        readout: `gaussian`, LeCun's, or `identity` there as well.

    Raises:
        InitializerError: for a hidden layer with other outputs than inputs.
    """

    distribution = "identity"

    def __init__(
        self,
        gain: float,
        sigma_b: float,
        readout: Literal["gaussian", "identity"],
    ):
        if readout not in ("gaussian", "identity"):
            raise ValueError(f"readout={readout}: allowed are gaussian, identity")
        self.gain = gain
        self.sigma_b = sigma_b
        self.readout = readout

    def draw(self, spec: LayerSpec, generator: Generator) -> float:
        weight = spec.weight
        if spec.kind == "readout" and self.readout == "gaussian":
            fill(weight, 1 / math.sqrt(spec.fan_in), "gaussian", generator)
            return 1.0
        if weight.shape[0] != weight.shape[1]:
            narrower = f"set model.width={weight.shape[1]}, or " if spec.map == "linear" else ""
            raise InitializerError(
                f"initializer=identity: {spec.name} maps {weight.shape[1]} units to "
                f"{weight.shape[0]}, which is not square; {narrower}use initializer=orthogonal"
            )
        (nn.init.eye_ if spec.map == "linear" else nn.init.dirac_)(weight)
        weight.mul_(float(self.gain))
        return float(self.gain)


class Sparse(PerLayer):
    """Each unit has `connections` incoming weights from N(0, std²), the others are 0 (Martens 2010,
    sec. 5).

    σ_w = std √connections: the variance of h is that of a dense layer with σ_w²/fan_in.
    """

    distribution = "sparse"

    def __init__(self, connections: int, std: float, sigma_b: float):
        self.connections = connections
        self.std = std
        self.sigma_b = sigma_b

    def draw(self, spec: LayerSpec, generator: Generator) -> float:
        rows = spec.weight.view(len(spec.weight), -1)
        kept = min(self.connections, rows.shape[1])
        chosen = torch.rand(rows.shape, generator=generator).argsort(1)[:, :kept]
        values = torch.empty(len(rows), kept).normal_(0.0, self.std, generator=generator)
        rows.zero_().scatter_(1, chosen, values)
        return self.std * math.sqrt(kept)


BREAKS_PAIRS = frozenset(
    ("max_pool1d", "max_pool2d", "max_pool3d", "pad", "softmax", "scaled_dot_product_attention")
)
"""Operations that are not linear, or that add units at one end."""


class LooksLinear(PerLayer):
    """Weights in mirrored blocks, (W, -W; -W, W): units come in pairs whose φ differ by a multiple
    of W x, so that the network is linear at initialization (Balduzzi et al. 2017, sec. 4). W is
    Haar-orthogonal.

    For φ with φ(z) - φ(-z) = c z, as relu (c = 1); W is divided by c, so that all singular values
    of the linear network's layers are the gain.

    Raises:
        InitializerError: for another φ, a normalization, an odd number of hidden units, shortcuts
            behind φ, or what is not linear itself.
    """

    distribution = "looks_linear"
    gain: float
    slope: float  # of a fitted one

    def __init__(self, gain: float):
        self.gain = gain

    def __call__(self, layers: list[LayerSpec], generator: Generator) -> None:
        normalized = [spec for spec in layers if spec.normalization != "none"]
        if normalized:
            raise InitializerError("initializer=looks_linear: set normalization=none")
        if any(spec.map == "recurrent" for spec in layers):
            raise InitializerError("initializer=looks_linear: draws no recurrent matrices")
        unlike = layers[0].others & BREAKS_PAIRS
        if unlike:
            words = f"{', '.join(sorted(unlike))} keeps no pairs of units together"
            raise InitializerError(f"initializer=looks_linear: {words}")
        branches = any(spec.branch is not None for spec in layers)
        if branches and layers[0].branch is None and layers[0].activation is not None:
            raise InitializerError(
                "initializer=looks_linear: shortcuts that carry what the activation has cut are "
                "not linear; set model.order=pre"
            )
        super().__call__(layers, generator)

    def fitted(self, layers: list[LayerSpec]) -> PerLayer:
        slopes = {_odd_slope(spec.activation) for spec in layers if spec.activation is not None}
        if len(slopes) > 1:
            raise InitializerError("initializer=looks_linear: needs one activation everywhere")
        fitted = copy.copy(self)
        fitted.slope = next(iter(slopes), 1.0)
        return fitted

    def draw(self, spec: LayerSpec, generator: Generator) -> float:
        weight = spec.weight
        outputs, inputs, *kernel = weight.shape
        pairs_in = spec.index > 1
        pairs_out = spec.kind == "hidden"
        rows = _half(spec, outputs) if pairs_out else outputs
        columns = _half(spec, inputs) if pairs_in else inputs
        block = nn.init.orthogonal_(weight.new_empty(rows, columns, *kernel), 1.0, generator)
        block = block * (self.gain / self.slope if pairs_in else self.gain)
        block = torch.cat([block, -block], 1) if pairs_in else block
        weight.copy_(torch.cat([block, -block]) if pairs_out else block)
        return float(weight.square().mean() * spec.fan_in) ** 0.5


def _odd_slope(phi: Activation) -> float:
    """c of φ(z) - φ(-z) = c z.

    Raises:
        InitializerError: where there is none.
    """
    z = np.geomspace(1e-3, 1e3, 13)
    slopes = (phi.phi(z) - phi.phi(-z)) / z
    if np.ptp(slopes) > 1e-6 or not slopes[0] > 0:
        raise InitializerError(
            f"initializer=looks_linear: activation={phi.name} makes no pair linear; use relu, "
            "leaky_relu or linear"
        )
    return float(slopes[0])


def _half(spec: LayerSpec, units: int) -> int:
    if units % 2:
        raise InitializerError(
            f"initializer=looks_linear: {spec.name} has {units} units to be paired; "
            "set model.width to an even number"
        )
    return units // 2
