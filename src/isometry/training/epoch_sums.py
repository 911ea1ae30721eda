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
        """Note a batch: logits [B, classes] and labels [B], or [B, classes, positions] and [B,
        positions], and its mean loss over what is asked for; one without examples (a process's
        share of a short batch) has none, and counts for nothing."""
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
        losses = torch.stack(self._losses).double()
        sizes = torch.stack([_asked_for(labels) for labels in self._labels]).to(losses)
        correct = (torch.cat(self._logits).argmax(1) == torch.cat(self._labels)).sum()
        new = torch.stack([(losses * sizes).sum(), correct.double(), sizes.sum()])
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


def _asked_for(labels: Tensor) -> Tensor:
    """How many answers a batch wants: one an example, or those of its positions that have a
    label.
    """
    # filled there: the device waits for a copy from the host
    return labels.new_full((), len(labels)) if labels.dim() == 1 else (labels >= 0).sum()


def share_of(shares: Tensor) -> Tensor:
    """This process's row of `EpochSums.shares`; of another number of processes the first one has
    them all.
    """
    if len(shares) == world_size():
        return shares[rank()]
    return shares.sum(0) if rank() == 0 else torch.zeros_like(shares[0])
