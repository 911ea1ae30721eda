"""A statistic of one's own: a column of that name, in the same rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from isometry.signals import distributed


@dataclass(frozen=True)
class Statistic:
    """One number a layer and recorded step.

    Attributes:
        of: what it is of: `preactivation` h or `activation` a, of one use of the layer in one
            micro-batch, or `weight`.
        compute: from that tensor, outside of autograd, to one number on its device. Numbers of
            several uses, micro-batches and processes are averaged.
    """

    of: Literal["preactivation", "activation", "weight"]
    compute: Callable[[Tensor], Tensor]


def averages(numbers: Sequence[Sequence[Tensor]], device: torch.device) -> Tensor:
    """The mean of each layer's numbers over all processes, [L]; NaN of a layer without any."""
    nothing = torch.full((), torch.nan, dtype=torch.float64, device=device)
    means = [torch.stack(list(of)).double().mean() if of else nothing for of in numbers]
    return distributed.total(torch.stack(means)) / distributed.world_size()
