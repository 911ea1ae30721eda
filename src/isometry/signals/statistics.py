"""What each statistic of a layer's tensors is: moments, saturation, dead units, norms of examples.

Each function takes one tensor of one use of a layer and returns numbers on its device, in float64,
without looking at them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isometry.activations import SATURATION_SHARE, Activation
from isometry.layers.spec import LayerSpec
from isometry.signals import loops

Sums = tuple[int, Tensor]
"""Entries; [3]: the first one, and over the differences from it their sum and that of squares."""


def shifted_sums(tensor: Tensor) -> Sums:
    """What `moments` are made of.

    Shifted before squaring: a mean far from 0 (sigmoid: 0.5 ± 1e-6) costs no digits. Differences
    of 16-bit numbers are taken in float32, sums in float64.
    """
    numbers = loops.numbers_of(tensor)
    if numbers is not None:
        return numbers.size, torch.from_numpy(loops.shifted_sums(numbers.reshape(-1)))
    flat = tensor.detach().flatten()
    if flat.dtype.itemsize < 4:
        flat = flat.float()
    shifted = (flat - flat[0]).double()
    sums = torch.stack([flat[0].double(), shifted.sum(), torch.dot(shifted, shifted)])
    return flat.numel(), sums


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


def saturated(phi: Activation, z: Tensor) -> Tensor | int:
    """How many entries of z lie where |φ'| is under 5 % of its maximum; a NaN does not."""
    z = z.detach()
    if phi.slope is not None:
        return torch.count_nonzero(phi.slope(z).abs() < SATURATION_SHARE * phi.slope_max)
    numbers = loops.numbers_of(z)
    intervals = phi.saturated_intervals or ()
    if numbers is not None:
        flat = numbers.reshape(-1)
        return sum(loops.count_inside(flat, *interval) for interval in intervals)
    inside = torch.zeros((), dtype=torch.int64, device=z.device)
    for low, high in intervals:
        inside = inside + torch.count_nonzero((z >= low) & (z <= high))
    return inside


def alive(layer: LayerSpec, a: Tensor) -> Tensor:
    """[units]: whether a unit (a channel of a feature map, at all positions together) is not 0 for
    some example.
    """
    a = a.detach()
    features = layer.map.startswith("conv") and a.dim() > 2
    units = a.shape[1] if features else a.shape[-1]
    rows = a.flatten(1) if features else a.flatten(0, -2)
    numbers = loops.numbers_of(rows)
    living = rows.ne(0).any(0) if numbers is None else torch.from_numpy(loops.any_nonzero(numbers))
    return living.view(units, -1).any(1) if features else living  # a NaN is not 0


def example_norms(tensor: Tensor) -> Tensor:
    """‖t_i‖ of each example of a batch [B, ...], [B]."""
    rows = tensor.detach().flatten(1)
    numbers = loops.numbers_of(rows)
    if numbers is not None:
        return torch.from_numpy(loops.row_norms(numbers))
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norms


def norm(tensor: Tensor) -> Tensor | float:
    """The Euclidean norm of all entries.

    Squares are taken in float64, so that 1e-40 and 1e38 are what they are: in float32 they
    underflow below about 1e-22 and overflow above about 1e19.
    """
    numbers = loops.numbers_of(tensor)
    if numbers is not None:
        return loops.norm(numbers.reshape(-1))
    result: Tensor = torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64)
    return result


def distance(x: Tensor, y: Tensor) -> Tensor | float:
    """`norm` of x - y, the differences in the tensors' own precision, where they are what
    happened.
    """
    one = loops.numbers_of(x)
    other = loops.numbers_of(y)
    if one is None or other is None or one.dtype != other.dtype:
        return norm(x - y)
    return loops.distance(one.reshape(-1), other.reshape(-1))


def keep(tensor: Tensor, kept: Tensor, first: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """Copy a tensor to a contiguous `kept`; its `norm` and its `distance` from `first`."""
    x, y, z = (loops.numbers_of(each) for each in (tensor, kept, first))
    if x is None or y is None or z is None:
        kept.copy_(tensor)
        return norm(tensor), distance(tensor, first)
    return loops.keep(x.reshape(-1), y.reshape(-1), z.reshape(-1))


class Constants:
    """Numbers on a device, copied there once: the host waits for such a copy."""

    def __init__(self, device: torch.device):
        self.device = device
        self._known: dict[tuple[float, ...], Tensor] = {}

    def __call__(self, values: Sequence[float]) -> Tensor:
        """[n] in float64."""
        key = tuple(values)
        if key not in self._known:
            self._known[key] = torch.tensor(key, dtype=torch.float64, device=self.device)
        return self._known[key]


def vector(numbers: Sequence[Tensor | float], device: torch.device) -> Tensor:
    """Float64 numbers, all on a device or on the host, as a vector on the device."""
    of_device = [number for number in numbers if isinstance(number, Tensor)]
    if len(of_device) == len(numbers) > 0:
        return torch.stack(of_device)
    return torch.tensor([float(number) for number in numbers], dtype=torch.float64, device=device)
