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
            if last.normalization != "none" or _ends_in_norm(residual.branch):
                raise self.refuse(
                    "is undone by the normalization at a branch's end; set normalization=none, "
                    "or model.order=pre, or model.norm_place=pre"
                )
            rescale(last, len(residuals) ** -0.5)


def _ends_in_norm(branch: nn.Module) -> bool:
    return isinstance(branch[-1], nn.LayerNorm | nn.RMSNorm)  # type: ignore[index]
