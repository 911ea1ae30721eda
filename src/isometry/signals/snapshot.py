"""Copies of all weights in few tensors, to subtract from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isometry.signals.norms import block_norms
from isometry.signals.workspace import Workspace, runs


class Snapshot:
    """The tensors as they were at the last `take`; those of equal shape lie in one block, for few kernels.

    Args:
        tensors: what to copy, in the order that all methods keep.

    Attributes:
        rows: the copies, one of each tensor.
    """

    def __init__(self, tensors: Sequence[Tensor]):
        self.blocks: list[Tensor] = []
        self.rows: list[Tensor] = []
        self.runs = runs(tuple(tensor.shape for tensor in tensors))
        for positions in self.runs:
            first = tensors[positions[0]]
            self.blocks.append(first.new_empty((len(positions), *first.shape)))
            self.rows += self.blocks[-1].unbind(0)
        self.take(tensors)

    def take(self, tensors: Sequence[Tensor]) -> None:
        """Copy the tensors."""
        for positions, block in zip(self.runs, self.blocks, strict=True):
            torch.stack(tuple(tensors[positions.start : positions.stop]), out=block)

    def norms(self, workspace: Workspace) -> Tensor:
        """The Euclidean norm of each copy, float64."""
        return torch.cat([block_norms(workspace.double(block)) for block in self.blocks])

    def subtract(self, other: Snapshot, out: Snapshot) -> Snapshot:
        """The differences, in the tensors' own precision, where they are what happened; written to `out`."""
        for left, right, result in zip(self.blocks, other.blocks, out.blocks, strict=True):
            torch.sub(left, right, out=result)
        return out
