"""What a layer's forward tensors say: moments, saturation, dead units. Sums of one micro-batch, and
how sums combine.

Each function takes a block [G, B, ...] of the tensors of G layers and, where it needs room of that
size, the memory for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Intervals = tuple[tuple[float, float], ...]

Saturated = Sequence[Intervals | None]
"""Of each layer; None where saturation does not exist."""


def shifted_sums(block: Tensor, spare: Tensor) -> Tensor:
    """What `moments` are made of, [G, B, ...] -> float64 [3, G]: each layer's first entry, and over
    the differences from it their sum and their norm.

    Shifted before squaring: a mean far from 0 (sigmoid: 0.5 ± 1e-6) costs no digits. Sums are taken
    in float64.
    """
    flat = block.flatten(1)
    shifted = spare.flatten(1)
    torch.sub(flat, flat[:, :1], out=shifted)
    norm = torch.linalg.vector_norm(shifted, dim=1, dtype=torch.float64)
    return torch.stack([flat[:, 0].double(), shifted.sum(1, dtype=torch.float64), norm])


def moments(sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and mean squared deviation over batch and units, two float64 [n].

    Args:
        sums: `shifted_sums` of n layers.
        counts: [n] entries of each.
    """
    first, total, norm = sums.unbind(0)
    mean = total / counts
    return mean + first, (norm.square() / counts - mean.square()).clamp_min(0)


def count_inside(block: Tensor, spare: Tensor, intervals: Intervals) -> Tensor:
    """How many entries lie in the closed intervals, [G, B, ...] -> float64 [G]. A NaN is in
    none.
    """
    flat = block.flatten(1)
    found = spare.flatten(1)
    inside: Tensor | float = 0.0
    for low, high in intervals:
        if low == -math.inf:
            inside = torch.le(flat, high, out=found).sum(1, dtype=torch.float64) + inside
            continue
        inside = torch.ge(flat, low, out=found).sum(1, dtype=torch.float64) + inside
        if high != math.inf:
            inside -= torch.gt(flat, high, out=found).sum(1, dtype=torch.float64)
    return inside if isinstance(inside, Tensor) else flat.new_zeros(len(flat), dtype=torch.float64)


def largest_by_unit(block: Tensor, spare: Tensor) -> Tensor:
    """The largest |a| of each unit (a channel of a feature map, at all positions together) for any
    example, [G, B, units, ...] -> float64 [G, units]: 0 where the unit is dead. A NaN stays one,
    and is none."""
    return torch.abs(block, out=spare).amax((1, *range(3, block.dim()))).double()


def merge_moments(counts: Tensor, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the union of samples (Chan, Golub & LeVeque 1983, eq. 2.1, in the form
    for several).

    Args:
        counts: [P] examples of each part.
        means, variances: [P, L] of each part.

    Returns:
        Two [L].
    """
    weight = (counts.double() / counts.sum()).view(-1, 1)
    mean = (weight * means).sum(0)
    return mean, (weight * (variances + (means - mean).square())).sum(0)
