"""What each statistic of a layer's tensors is: moments, saturation, dead units, norms of examples.

Each function takes one tensor of one use of a layer and returns numbers on its device, in float64,
without looking at them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from isometry.activations import SATURATION_SHARE, Activation
from isometry.layers.spec import LayerSpec

SMALL = 2**16
"""Entries up to which an operation costs what asking for it does."""

CHUNK = 2**18
"""Entries that are copied to float64 at a time."""

Sums = tuple[int, Tensor, Tensor, Tensor]
"""Entries; the first one; over the differences from it their sum and the sum of their squares."""


def shifted_sums(tensor: Tensor) -> Sums:
    """What `moments` are made of.

    Shifted before squaring: a mean far from 0 (sigmoid: 0.5 ± 1e-6) costs no digits. Differences
    of 16-bit numbers are taken in float32, sums in float64.
    """
    flat = tensor.detach().flatten()
    if flat.dtype.itemsize < 4:
        flat = flat.float()
    first = flat[0]
    shifted = (flat - first).double()
    squares = torch.dot(shifted, shifted)  # on the CPU several times as fast as a float64 norm
    kept = first.to(torch.float64, copy=True)  # what it stands in may be overwritten next
    return flat.numel(), kept, shifted.sum(), squares


def moments(first: Tensor, total: Tensor, squares: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and mean squared deviation, two [n], from n `shifted_sums`, [n] each."""
    mean = total / counts
    return mean + first, (squares / counts - mean.square()).clamp_min(0)


def merge_moments(counts: Tensor, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the union of samples (Chan, Golub & LeVeque 1983, eq. 2.1, in the form
    for several).

    Args:
        counts, means, variances: [P, L] of each part.

    Returns:
        Two [L].
    """
    weight = counts / counts.sum(0)
    mean = (weight * means).sum(0)
    return mean, (weight * (variances + (means - mean).square())).sum(0)


def saturated(phi: Activation, z: Tensor) -> Tensor:
    """How many entries of z lie where |φ'| is under 5 % of its maximum; a NaN does not."""
    z = z.detach()
    if phi.slope is not None:
        return torch.count_nonzero(phi.slope(z).abs() < SATURATION_SHARE * phi.slope_max)
    inside = torch.zeros((), dtype=torch.int64, device=z.device)
    for low, high in phi.saturated_intervals or ():
        inside = inside + _inside(z, low, high)
    return inside


def _inside(z: Tensor, low: float, high: float) -> Tensor:
    if low == -math.inf:
        return torch.count_nonzero(z <= high)
    from_low = torch.count_nonzero(z >= low)
    return from_low if high == math.inf else from_low - torch.count_nonzero(z > high)


def alive(layer: LayerSpec, a: Tensor) -> Tensor:
    """[units]: whether a unit (a channel of a feature map, at all positions together) is not 0 for
    some example.
    """
    size = a.detach().abs()  # of which a NaN stays one, and is not 0
    if layer.map.startswith("conv") and size.dim() > 2:
        size = size.flatten(2).amax(2)
    return size.flatten(0, -2).amax(0).ne(0)


def example_norms(tensor: Tensor) -> Tensor:
    """‖t_i‖ of each example of a batch [B, ...], [B]."""
    rows = tensor.detach().flatten(1).double()
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms


def norm(tensor: Tensor) -> Tensor:
    """The Euclidean norm of all entries.

    Squares are taken in float64, so that 1e-40 and 1e38 are what they are: in float32 they
    underflow below about 1e-22 and overflow above about 1e19.
    """
    tensor = tensor.detach()
    if tensor.is_cpu and tensor.numel() > SMALL:
        return _norm_of_parts(tensor.flatten().split(CHUNK))
    result: Tensor = torch.linalg.vector_norm(tensor, dtype=torch.float64)
    return result


def distance(x: Tensor, y: Tensor) -> Tensor:
    """`norm` of x - y, the differences in the tensors' own precision, where they are what
    happened.
    """
    if x.is_cpu and x.numel() > SMALL:
        pairs = zip(x.flatten().split(CHUNK), y.flatten().split(CHUNK), strict=True)
        return _norm_of_parts(a - b for a, b in pairs)
    return norm(x - y)


def _norm_of_parts(parts: Iterable[Tensor]) -> Tensor:
    """By float64 dot products: on a CPU three times as fast as a float64 norm of float32."""
    return torch.stack([torch.dot(d, d) for d in map(Tensor.double, parts)]).sum().sqrt()
