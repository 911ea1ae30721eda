"""ReZero and SkipInit: each residual branch begins at nothing and grows."""

from __future__ import annotations

from torch import nn

from isometry.remedies.base import Remedy


class LearnedScale(Remedy):
    """A learned number α before each residual branch: ReZero (Bachlechner et al. 2021, eq. 1),
    SkipInit (De & Smith 2020, sec. 4).

    Args:
        start: α before training.
    """

    def __init__(self, start: float):
        self.start = start

    def alter(self, network: nn.Module) -> None:
        residuals = self.residuals(network)
        self.refuse_scales(residuals)
        for residual in residuals:
            residual.learn_scale(self.start)
