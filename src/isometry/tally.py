"""Loss and accuracy of an epoch, summed on the device."""

from __future__ import annotations

import torch
from torch import Tensor

BATCHES = 32
"""Batches whose logits are kept before they are counted in one go: a few small kernels a batch add up."""


class Tally:
    """Sums of loss, correct answers and examples; nothing waits for the device until `totals` is read."""

    def __init__(self, sums: Tensor | None = None):
        self.sums = sums
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._losses: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Note a batch: logits [B, classes], labels [B], its mean loss."""
        self._logits.append(logits.detach())
        self._labels.append(labels)
        self._losses.append(loss.detach())
        if len(self._logits) == BATCHES:
            self._count()

    def _count(self) -> None:
        if not self._logits:
            return
        sizes = torch.tensor([len(labels) for labels in self._labels], dtype=torch.float64)
        losses = torch.stack(self._losses).double() @ sizes.to(self._losses[0].device)
        correct = (torch.cat(self._logits).argmax(1) == torch.cat(self._labels)).sum()
        new = torch.stack([losses, correct.double(), sizes.sum().to(correct.device)])
        self.sums = new if self.sums is None else self.sums + new
        self._logits, self._labels, self._losses = [], [], []

    def totals(self) -> Tensor | None:
        """[loss sum, correct answers, examples] in float64 on the device; None before the first batch."""
        self._count()
        return self.sums
