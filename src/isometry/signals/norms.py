"""Norms of many tensors at once, without a host synchronization."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from isometry.signals.statistics import SMALL, distance, norm

SCREENED = frozenset({"cpu"})
"""Devices whose results are there at once, so that looking at one does not wait for anything."""


def seen_at_once(device: torch.device) -> bool:
    """Whether looking at a value of the device waits for nothing."""
    return device.type in SCREENED


def norms(tensors: Iterable[Tensor], device: torch.device) -> Tensor:
    """The Euclidean norm of each tensor, right over float32's full range, as a float64 vector on a
    device. An infinite or NaN entry makes the norm inf or nan.
    """
    return _vector([_row_norms(group) for group in grouped(tensors, device)], device)


def _vector(parts: list[Tensor], device: torch.device) -> Tensor:
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64, device=device)


def distances(tensors: Sequence[Tensor], others: Sequence[Tensor], device: torch.device) -> Tensor:
    """`norms` of x - y for each pair; the differences in the tensors' own precision, where they are
    what happened.
    """
    pairs = zip(tensors, others, strict=True)
    if seen_at_once(device):
        return _vector([distance(x, y).reshape(1) for x, y in pairs], device)
    # one group of differences at a time: all together are a copy of the network
    return norms((x - y for x, y in pairs), device)


def nonfinite_counts(tensors: Sequence[Tensor]) -> Tensor:
    """How many entries of each of at least one tensor are inf or nan, as a float64 vector."""
    return torch.stack([x.isfinite().logical_not().sum(dtype=torch.float64) for x in tensors])


def grouped(tensors: Iterable[Tensor], device: torch.device) -> Iterator[list[Tensor]]:
    """Consecutive small tensors of one shape and type together, on accelerators.

    There a step of a small network costs what the host needs to ask for it, and thirty layers are
    few shapes; on the CPU the copy costs more than it spares.
    """
    if seen_at_once(device):
        yield from ([tensor] for tensor in tensors)
        return
    for _, group in itertools.groupby(tensors, _kind):
        yield list(group)


def _kind(tensor: Tensor) -> tuple[object, ...]:
    if tensor.numel() > SMALL:
        return (id(tensor),)
    return tensor.shape, tensor.dtype


def _row_norms(group: list[Tensor]) -> Tensor:
    if len(group) == 1:
        return norm(group[0]).reshape(1)
    rows = torch.stack(group).reshape(len(group), group[0].numel())
    found: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return found


TINY = 1e-18
"""A float32 norm under this may have lost squares that underflowed."""


def total_norm(tensors: Sequence[Tensor]) -> float | None:
    """The norm of all entries together, in the tensors' own precision; None where one look does not
    show that it is finite and right. For devices whose results are there at once.
    """
    if any(tensor.dtype.itemsize < 4 for tensor in tensors):
        return None
    found: float = torch.nn.utils.get_total_norm(tensors, error_if_nonfinite=False).item()
    return found if math.isfinite(found) and found > TINY else None


def known_finite(values: Tensor) -> bool:
    """Whether all is finite, where that is known without waiting for the device; False where it is
    not known.
    """
    return seen_at_once(values.device) and math.isfinite(values.sum().item())
