"""GPT-2: what enters the trunk is scaled with the depth (Radford et al. 2019, sec. 2.3)."""

from __future__ import annotations

from torch import Generator, nn

from isometry.layers.spec import LayerSpec
from isometry.remedies.base import Remedy, maps_in, rescale, specs_of


class DepthScaled(Remedy):
    """The last layer of each residual branch is scaled by 1/√(number of branches): 1/√(2L) in a
    transformer of L blocks.
    """

    def begin(self, network: nn.Module, layers: list[LayerSpec], generator: Generator) -> None:
        residuals = self.residuals(network)
        for residual in residuals:
            last = specs_of(maps_in(residual.branch), layers)[-1]
            rescale(last, len(residuals) ** -0.5)
