"""Learning rates over the training, as factors on `optimizer.lr`; stepped after every optimizer
step.

Lengths are shares of the training, so that a schedule keeps its shape when `trainer.max_epochs`
changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def _follow(optimizer: Optimizer, factor: Callable[[int], float]) -> LambdaLR:
    return LambdaLR(optimizer, factor)


def step(
    optimizer: Optimizer, total_steps: int, milestones: Sequence[float], gamma: float
) -> LambdaLR:
    """Multiply the rate by `gamma` at each milestone (a share of the training)."""
    steps = [milestone * total_steps for milestone in milestones]
    return _follow(optimizer, lambda t: gamma ** sum(t >= at for at in steps))


def cosine(optimizer: Optimizer, total_steps: int, final: float) -> LambdaLR:
    """From 1 to `final` along half a cosine (Loshchilov & Hutter 2017, without restarts)."""
    return warmup_cosine(optimizer, total_steps, 0.0, final)


def warmup_cosine(optimizer: Optimizer, total_steps: int, warmup: float, final: float) -> LambdaLR:
    """A linear rise over the first `warmup` share of the training, then the cosine."""
    rise = warmup * total_steps

    def factor(t: int) -> float:
        if t < rise:
            return (t + 1) / (rise + 1)
        done = min(1.0, (t - rise) / max(1.0, total_steps - rise))
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))

    return _follow(optimizer, factor)
