"""Loss and accuracy of an epoch, summed on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from isometry.signals.distributed import gathered, rank, world_size

BATCHES = 32
"""Batches whose logits are kept before they are counted in one go: a few small kernels a batch add
up.
"""


class EpochSums:
    """Sums of loss, correct answers and examples; nothing waits for the device until `totals` is
    read.

    Args:
        sums: where to go on, on any device: a checkpoint is read before the network has been moved.
    """

    def __init__(self, sums: Tensor | None = None):
        self.sums = sums
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._losses: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Note a batch: logits [B, classes], labels [B], its mean loss; one without examples (a
        process's share of a short batch) has none, and counts for nothing."""
        if len(labels) == 0:
            return
        self._logits.append(logits.detach())
        self._labels.append(labels)
        self._losses.append(loss.detach())
        if len(self._logits) == BATCHES:
            self._count()

    def _count(self) -> None:
        if not self._logits:
            return
        sizes = [float(len(labels)) for labels in self._labels]
        sums = torch.stack(
            torch._foreach_mul(list(torch.stack(self._losses).double().unbind()), sizes)
        )
        correct = (torch.cat(self._logits).argmax(1) == torch.cat(self._labels)).sum()
        # filled there: the device waits for a copy from the host
        new = torch.stack([sums.sum(), correct.double(), torch.full_like(sums[0], sum(sizes))])
        self.sums = new if self.sums is None else self.sums.to(new.device) + new
        self._logits = []
        self._labels = []
        self._losses = []

    def totals(self) -> Tensor | None:
        """[loss sum, correct answers, examples] in float64 on the device; None before the first
        batch.
        """
        self._count()
        return self.sums

    def shares(self) -> Tensor:
        """The totals of each process that trains, [processes, 3]: what a checkpoint keeps. Added up
        they would be rounded in another order than those of an epoch without a break.
        """
        totals = self.totals()
        own = torch.zeros(3, dtype=torch.float64) if totals is None else totals
        return gathered(own[None])


def share_of(shares: Tensor) -> Tensor:
    """This process's row of `EpochSums.shares`; of another number of processes the first one has
    them all.
    """
    if len(shares) == world_size():
        return shares[rank()]
    return shares.sum(0) if rank() == 0 else torch.zeros_like(shares[0])
