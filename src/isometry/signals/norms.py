"""Norms that hold over float32's full range, without a host synchronization."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SCREENED = frozenset({"cpu"})
"""Devices whose results are there at once, so that looking at one does not wait for anything."""


def seen_at_once(device: torch.device) -> bool:
    """Whether looking at a value of the device waits for nothing."""
    return device.type in SCREENED


def norms(tensors: list[Tensor], device: torch.device | None = None) -> Tensor:
    """The Euclidean norm of each tensor as a float64 vector, on the tensors' device (on `device` if there are none).

    Squares are taken in float64, so that 1e-40 and 1e38 are what they are: in float32 they underflow below about 1e-22
    and overflow above about 1e19. An infinite or NaN entry makes the norm inf or nan.
    """
    if not tensors:
        return torch.empty(0, dtype=torch.float64, device=device)
    return torch.stack(torch._foreach_norm(tensors, 2, dtype=torch.float64))


def nonfinite_counts(tensors: Sequence[Tensor]) -> Tensor:
    """How many entries of each of at least one tensor are inf or nan, as a float64 vector."""
    return torch.stack([(~torch.isfinite(tensor)).sum(dtype=torch.float64) for tensor in tensors])


def known_finite(values: Tensor) -> bool:
    """Whether all is finite, where that is known without waiting for the device; False where it is not known."""
    return seen_at_once(values.device) and math.isfinite(values.item() if values.dim() == 0 else values.sum().item())


def per_example_squares(block: Tensor) -> Tensor:
    """‖x_i‖² of each example of a block [G, B, ...] of batches, float64 [G, B]."""
    result: Tensor = torch.linalg.vector_norm(block.flatten(2), dim=2, dtype=torch.float64).square()
    return result
