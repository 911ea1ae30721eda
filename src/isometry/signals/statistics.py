"""What a layer's forward tensors say: moments, saturation, dead units. Sums of one micro-batch, and how sums combine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

STACK_LIMIT = 16_384
"""Tensors of equal shape are stacked up to so many entries in all: fewer kernels for tiny ones; larger stacks would leave the
cache and have their memory mapped anew each time, which costs more than it saves."""

Intervals = tuple[tuple[float, float], ...]


def by_shape(tensors: Sequence[Tensor], function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function [G, B, ...] -> [G, ...] to tensors [B, ...], small ones of equal shape stacked into one call.

    Returns the results in the order of the tensors; all must have one shape.
    """
    by_kind: dict[tuple, list[int]] = defaultdict(list)
    for index, tensor in enumerate(tensors):
        by_kind[(tensor.shape, tensor.dtype)].append(index)
    groups: list[list[int]] = []
    for (shape, _), members in by_kind.items():
        size = max(1, STACK_LIMIT // max(1, shape.numel()))
        groups += [members[start : start + size] for start in range(0, len(members), size)]
    stacks = (torch.stack([tensors[i] for i in g]) if len(g) > 1 else tensors[g[0]].unsqueeze(0) for g in groups)
    results = torch.cat([function(stack) for stack in stacks])
    order = [i for group in groups for i in group]
    if order == sorted(order):
        return results
    return results[torch.tensor(order, device=results.device).argsort()]


def moments(stack: Tensor) -> Tensor:
    """Mean and mean squared deviation over batch and units, [G, B, ...] -> float64 [G, 2].

    Shifted by each layer's first entry before squaring: a mean far from 0 (sigmoid: 0.5 ± 1e-6) costs no digits. Sums are
    taken in float64 without a float64 copy of the tensor.
    """
    flat = stack.flatten(1)
    shifted = flat - flat[:, :1]
    count = flat.shape[1]
    mean = shifted.sum(1, dtype=torch.float64) / count
    square = torch.linalg.vector_norm(shifted, dim=1, dtype=torch.float64).square() / count
    return torch.stack([mean + flat[:, 0], (square - mean.square()).clamp_min(0)], dim=1)


def share_inside(stack: Tensor, intervals: Intervals) -> Tensor:
    """Share of entries in the closed intervals, [G, B, ...] -> float64 [G]."""
    flat = stack.flatten(1)
    inside = torch.zeros(len(flat), dtype=torch.float64, device=flat.device)
    buffer = torch.empty_like(flat)
    for low, high in intervals:
        inside += torch.ge(flat, low, out=buffer).mean(1, dtype=torch.float64)
        inside -= torch.gt(flat, high, out=buffer).mean(1, dtype=torch.float64)
    return inside


def alive_units(stack: Tensor) -> Tensor:
    """1 for each unit (a channel of a feature map, at all positions together) that is non-zero for some example,
    [G, B, units, ...] -> float64 [G, units]. A NaN counts as alive."""
    dims = (1, *range(3, stack.dim()))
    return 1.0 - (stack.abs().amax(dims) == 0).double()


def merge_moments(counts: Tensor, parts: Tensor) -> Tensor:
    """Mean and variance of the union of samples (Chan, Golub & LeVeque 1983, eq. 2.1, in the form for several).

    Args:
        counts: [P] examples of each part.
        parts: [P, L, 2] mean and variance of each part.

    Returns:
        [L, 2].
    """
    weight = (counts.double() / counts.sum()).view(-1, 1)
    mean = (weight * parts[..., 0]).sum(0)
    variance = (weight * (parts[..., 1] + (parts[..., 0] - mean).square())).sum(0)
    return torch.stack([mean, variance], dim=-1)
