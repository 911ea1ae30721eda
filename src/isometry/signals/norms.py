"""Norms that hold over float32's full range, without a host synchronization."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from isometry.signals.workspace import runs

WORTH = 3
"""Tensors to a group, on average, from which it pays to take groups together."""

SCREENED = frozenset({"cpu"})
"""Devices whose results are there at once, so that looking at one does not wait for anything."""


def seen_at_once(device: torch.device) -> bool:
    """Whether looking at a value of the device waits for nothing."""
    return device.type in SCREENED


def norms(tensors: list[Tensor], device: torch.device | None = None) -> Tensor:
    """The Euclidean norm of each tensor as a float64 vector, on the tensors' device (on `device` if
    there are none).

    Squares are taken in float64, so that 1e-40 and 1e38 are what they are: in float32 they
    underflow below about 1e-22 and overflow above about 1e19. An infinite or NaN entry makes the
    norm inf or nan.
    """
    if not tensors:
        return torch.empty(0, dtype=torch.float64, device=device)
    groups = groups_of(tensors)
    if groups is None:
        return torch.stack(torch._foreach_norm(tensors, 2, dtype=torch.float64))
    return _joined([row_norms(side_by_side(tensors[g.start : g.stop])) for g in groups])


def distances(
    tensors: list[Tensor], others: list[Tensor], device: torch.device | None = None
) -> Tensor:
    """`norms` of x - y for each pair; the differences in the tensors' own precision."""
    groups = groups_of(tensors)
    if groups is None:
        return norms(list(torch._foreach_sub(tensors, others)) if tensors else [], device)
    return _joined(
        [
            row_norms(
                side_by_side(tensors[g.start : g.stop]) - side_by_side(others[g.start : g.stop])
            )
            for g in groups
        ]
    )


def nonfinite_counts(tensors: list[Tensor]) -> Tensor:
    """How many entries of each of at least one tensor are inf or nan, as a float64 vector."""
    groups = groups_of(tensors) or [range(k, k + 1) for k in range(len(tensors))]
    return _joined([_nonfinite(side_by_side(tensors[g.start : g.stop])) for g in groups])


def groups_of(tensors: list[Tensor]) -> tuple[range, ...] | None:
    """Consecutive tensors of one shape, where it pays to take them together; None where it does
    not.

    On an accelerator a step of a small network costs what the host needs to ask for it, and thirty
    layers are few shapes: one `cat` and one reduction for each are cheaper than torch's operations
    on lists, which return a tensor for each tensor.
    """
    if not tensors or len({tensor.dtype for tensor in tensors}) > 1:
        return None
    groups = runs(tuple(tensor.shape for tensor in tensors))
    return groups if WORTH * len(groups) <= len(tensors) else None


def side_by_side(tensors: list[Tensor]) -> Tensor:
    """Tensors of one shape as rows [G, entries]."""
    if tensors[0].dim() == 0:
        return torch.stack(tensors).unsqueeze(1)
    whole = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
    return whole.reshape(len(tensors), tensors[0].numel())


def row_norms(block: Tensor) -> Tensor:
    """The norm of each row, float64 [G]."""
    result: Tensor = torch.linalg.vector_norm(block, dim=1, dtype=torch.float64)
    return result


def _nonfinite(block: Tensor) -> Tensor:
    # 0 times a finite number is 0, and nan otherwise: fewer operations than torch's isfinite
    return (block * 0).ne(0).sum(1, dtype=torch.float64)


def _joined(found: list[Tensor]) -> Tensor:
    return found[0] if len(found) == 1 else torch.cat(found)


def known_finite(values: Tensor) -> bool:
    """Whether all is finite, where that is known without waiting for the device; False where it is
    not known.
    """
    return seen_at_once(values.device) and math.isfinite(
        values.item() if values.dim() == 0 else values.sum().item()
    )


def per_example_squares(block: Tensor) -> Tensor:
    """‖x_i‖² of each example of a block [G, B, ...] of batches, float64 [G, B]."""
    return per_example_norms(block).square()


def per_example_norms(block: Tensor) -> Tensor:
    """‖x_i‖ likewise."""
    result: Tensor = torch.linalg.vector_norm(block.flatten(2), dim=2, dtype=torch.float64)
    return result
