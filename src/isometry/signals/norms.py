"""Norms that hold over float32's full range, without a host synchronization."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SCREENED = frozenset({"cpu"})
"""Devices whose results are there at once, so that looking at one does not wait for anything."""


UNDERFLOW = 1e-15
"""A float32 norm above this has lost nothing that counts to squares below float32's range."""


def seen_at_once(device: torch.device) -> bool:
    """Whether looking at a value of the device waits for nothing."""
    return device.type in SCREENED


def norms(tensors: list[Tensor]) -> Tensor:
    """The Euclidean norm of each tensor as a float64 vector.

    Squares are taken in float64, so that 1e-40 and 1e38 are what they are: in float32 they underflow below about 1e-22
    and overflow above about 1e19. An infinite or NaN entry makes the norm inf or nan.
    """
    if not tensors:
        return torch.empty(0, dtype=torch.float64)
    return torch.stack(torch._foreach_norm(tensors, 2, dtype=torch.float64))


def nonfinite_counts(tensors: list[Tensor], watched_norms: Tensor) -> Tensor:
    """How many entries of each tensor are inf or nan, as a float64 vector.

    Args:
        tensors: what to count in.
        watched_norms: their `watched` norms; on a screened device, finite ones leave nothing to count.
    """
    if not tensors:
        return torch.empty(0, dtype=torch.float64)
    if known_finite(watched_norms):
        return torch.zeros(len(tensors), dtype=torch.float64)
    return torch.stack([(~torch.isfinite(tensor)).sum(dtype=torch.float64) for tensor in tensors])


def watched(tensors: list[Tensor]) -> Tensor:
    """Norms that are only asked whether they are finite: float64, exactly so, whatever the entries' size.

    On the CPU float32 norms screen, at half the time, and the float64 ones are taken where they overflow, or where even the
    largest may have underflowed; on other devices a look at the screen would wait for the device, and float64 is fast.
    """
    if not tensors or not seen_at_once(tensors[0].device):
        return norms(tensors)
    screen = [float(norm) for norm in torch._foreach_norm(tensors)]  # cheaper one by one than stacked: each is there already
    right = math.isfinite(sum(screen)) and max(screen) > UNDERFLOW
    return torch.tensor(screen, dtype=torch.float64) if right else norms(tensors)


def known_finite(watched_norms: Tensor) -> bool:
    """Whether all is finite, where that is known without waiting for the device; False where it is not known."""
    return seen_at_once(watched_norms.device) and math.isfinite(float(watched_norms.sum()))


def block_norms(block: Tensor) -> Tensor:
    """The Euclidean norm of each row of a block [G, ...], as a float64 vector [G]."""
    result: Tensor = torch.linalg.vector_norm(block.flatten(1), dim=1, dtype=torch.float64)
    return result


def per_example_squares(block: Tensor) -> Tensor:
    """‖x_i‖² of each example of a block [G, B, ...] of batches, float64 [G, B]."""
    result: Tensor = torch.linalg.vector_norm(block.flatten(2), dim=2, dtype=torch.float64).square()
    return result
