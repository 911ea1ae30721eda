"""Norms of many tensors at once, without a host synchronization."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from isometry.signals import statistics
from isometry.signals.statistics import distance, norm, vector

SMALL = 2**16
"""Entries up to which an operation costs what asking for it does."""

SCREENED = frozenset({"cpu"})
"""Devices whose results are there at once, so that looking at one does not wait for anything."""


def seen_at_once(device: torch.device) -> bool:
    """Whether looking at a value of the device waits for nothing."""
    return device.type in SCREENED


def norms(tensors: Iterable[Tensor], device: torch.device) -> Tensor:
    """The Euclidean norm of each tensor, right over float32's full range, as a float64 vector on a
    device. An infinite or NaN entry makes the norm inf or nan.
    """
    if seen_at_once(device):
        return vector([norm(tensor) for tensor in tensors], device)
    nothing = torch.empty(0, dtype=torch.float64, device=device)
    return torch.cat([nothing, *map(_row_norms, grouped(tensors))])


def distances(tensors: Sequence[Tensor], others: Sequence[Tensor], device: torch.device) -> Tensor:
    """`norms` of x - y for each pair; the differences in the tensors' own precision, where they are
    what happened.
    """
    pairs = zip(tensors, others, strict=True)
    if seen_at_once(device):
        return vector([distance(x, y) for x, y in pairs], device)
    # one group of differences at a time: all together are a copy of the network
    return norms((x - y for x, y in pairs), device)


def keep(
    tensors: Sequence[Tensor], kept: Sequence[Tensor], first: Sequence[Tensor], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Copy each tensor to a contiguous `kept`; their `norms` and their `distances` from `first`.

    The three together read a large network's weights once instead of three times.
    """
    triples = zip(tensors, kept, first, strict=True)
    if seen_at_once(device):
        sizes, moved = zip(*(statistics.keep(*three) for three in triples), strict=True)
        return vector(sizes, device), vector(moved, device)
    for tensor, copy, _ in triples:
        copy.copy_(tensor)
    return norms(tensors, device), distances(tensors, first, device)


def nonfinite_counts(tensors: Sequence[Tensor]) -> Tensor:
    """How many entries of each of at least one tensor are inf or nan, as a float64 vector."""
    return torch.stack([x.isfinite().logical_not().sum(dtype=torch.float64) for x in tensors])


def grouped(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive small tensors of one shape and type together: on accelerators a step of a small
    network costs what the host needs to ask for it, and thirty layers are few shapes.
    """
    for _, group in itertools.groupby(tensors, _kind):
        yield list(group)


def _kind(tensor: Tensor) -> tuple[object, ...]:
    if tensor.numel() > SMALL:
        return (id(tensor),)
    return tensor.shape, tensor.dtype


def _row_norms(group: list[Tensor]) -> Tensor:
    if len(group) == 1:
        return vector([norm(group[0])], group[0].device)
    rows = torch.stack(group).reshape(len(group), group[0].numel())
    found: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return found


def known_finite(values: Tensor) -> bool:
    """Whether all is finite, where that is known without waiting for the device; False where it is
    not known.
    """
    return seen_at_once(values.device) and math.isfinite(values.sum().item())
