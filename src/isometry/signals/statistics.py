"""What a layer's forward tensors say: moments, saturation, dead units. Sums of one micro-batch, and how sums combine.

Each function takes a block [G, B, ...] of the tensors of G layers and, where it needs room of that size, the memory for it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Intervals = tuple[tuple[float, float], ...]


def moments(block: Tensor, spare: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and mean squared deviation over batch and units, [G, B, ...] -> two float64 [G].

    Shifted by each layer's first entry before squaring: a mean far from 0 (sigmoid: 0.5 ± 1e-6) costs no digits. Sums are
    taken in float64.
    """
    flat, shifted = block.flatten(1), spare.flatten(1)
    count = flat.shape[1]
    torch.sub(flat, flat[:, :1], out=shifted)
    mean = shifted.sum(1, dtype=torch.float64) / count
    square = torch.linalg.vector_norm(shifted, dim=1, dtype=torch.float64).square() / count
    return mean + flat[:, 0], (square - mean.square()).clamp_min(0)


def share_inside(block: Tensor, spare: Tensor, intervals: Intervals) -> Tensor:
    """Share of entries in the closed intervals, [G, B, ...] -> float64 [G]. A NaN is in none."""
    flat, found = block.flatten(1), spare.flatten(1)
    inside = torch.zeros(len(flat), dtype=torch.float64, device=flat.device)
    for low, high in intervals:
        if low == -math.inf:
            inside += torch.le(flat, high, out=found).sum(1, dtype=torch.float64)
            continue
        inside += torch.ge(flat, low, out=found).sum(1, dtype=torch.float64)
        if high != math.inf:
            inside -= torch.gt(flat, high, out=found).sum(1, dtype=torch.float64)
    return inside / flat.shape[1]


def alive_units(block: Tensor, spare: Tensor) -> Tensor:
    """1 for each unit (a channel of a feature map, at all positions together) that is non-zero for some example,
    [G, B, units, ...] -> float64 [G, units]. A NaN counts as alive."""
    dims = (1, *range(3, block.dim()))
    return 1.0 - (torch.abs(block, out=spare).amax(dims) == 0).double()


def merge_moments(counts: Tensor, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the union of samples (Chan, Golub & LeVeque 1983, eq. 2.1, in the form for several).

    Args:
        counts: [P] examples of each part.
        means, variances: [P, L] of each part.

    Returns:
        Two [L].
    """
    weight = (counts.double() / counts.sum()).view(-1, 1)
    mean = (weight * means).sum(0)
    return mean, (weight * (variances + (means - mean).square())).sum(0)
