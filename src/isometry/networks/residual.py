"""A branch beside a shortcut: what every residual network is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from isometry.activations import Activation
from isometry.errors import bad_value
from isometry.networks.blocks import Layer, PreLayer, Weighted

Order = Literal["post", "pre"]
"""Where φ stands: behind the sum (He et al. 2015), or before each map (He et al. 2016)."""

Scale = float | Literal["auto"]
"""Of the branches; `auto` is 1/√(number of branches) (Hanin & Rolnick 2018; De & Smith 2020)."""


class Residual(nn.Module):
    """y = ψ(c s(x) + α f(x)).

    Attributes:
        branch: f.
        shortcut: s; None: the identity.
        after: ψ, φ or a normalization behind the sum; None: the identity.
        scale: α, a number, or a learned one (`learn_scale`).
        carry: c, a number.
    """

    def __init__(
        self,
        branch: nn.Module,
        shortcut: nn.Module | None = None,
        after: nn.Module | None = None,
        scale: float = 1.0,
    ):
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.after = after
        self.scale: float | nn.Parameter = scale
        self.carry = 1.0

    def learn_scale(self, start: float) -> None:
        """Make α a learned number."""
        self.scale = nn.Parameter(torch.tensor(float(start)))

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.shortcut is None else self.shortcut(x)
        x = _times(self.carry, kept) + _times(self.scale, self.branch(x))
        return x if self.after is None else self.after(x)  # type: ignore[no-any-return]


def _times(factor: float | Tensor, x: Tensor) -> Tensor:
    plain = isinstance(factor, float) and factor == 1.0
    return x if plain else factor * x


def branch_scale(scale: Scale, branches: int) -> float:
    """The number that a config's `scale` stands for."""
    return 1 / math.sqrt(max(1, branches)) if scale == "auto" else float(scale)


def make_branch(
    maps: Sequence[Weighted],
    activation: Activation,
    normalization: str,
    order: Order,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Maps with their φ and normalization; the last one of order `post` has its φ behind the
    sum.
    """
    if order == "pre":
        return nn.Sequential(*(PreLayer(each, activation, normalization, dropout) for each in maps))
    *inner, last = maps
    layers = [Layer(each, activation, normalization, dropout) for each in inner]
    return nn.Sequential(*layers, Layer(last, None, normalization))


def blocks_of(depth: int, size: int, others: int) -> int:
    """How many blocks of `size` layers a network of `depth` has beside `others`.

    Raises:
        UserError: where the depth is none that there is.
    """
    blocks, rest = divmod(depth - others, size)
    if rest or blocks < 1:
        nearest = others + size * max(1, round((depth - others) / size))
        why = f"must be {others} and a multiple of {size}, e.g. {nearest}"
        raise bad_value("model.depth", depth, why)
    return blocks
