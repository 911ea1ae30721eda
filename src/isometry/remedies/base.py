"""What a remedy is, and what remedies ask of a network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Generator, nn

from isometry.errors import UserError
from isometry.layers.spec import LayerSpec
from isometry.networks.attention import Attention
from isometry.networks.residual import Residual

MAPS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Remedy:
    """Changes a network in up to three places; a subclass has those that its paper has.

    Attributes:
        name: what tables and messages call it.
        hides_weights: whether `begin` makes weights computed ones, so that the layer map is found
            anew behind it.
    """

    name = "none"
    hides_weights = False

    def alter(self, network: nn.Module) -> None:
        """Add or exchange parts, before the layer map is found.

        Raises:
            UserError: for a network that it does not suit.
        """

    def begin(self, network: nn.Module, layers: list[LayerSpec], generator: Generator) -> None:
        """Change the weights that the initializer has drawn.

        Raises:
            UserError: for a network that it does not suit.
        """

    def groups(
        self, network: nn.Module, layers: list[LayerSpec], optimizer: str, lr: float
    ) -> list[dict[str, Any]]:
        """Groups of parameters with learning rates of their own, as torch's optimizers take them;
        none where all have the same.

        Args:
            optimizer: the class that is built, e.g. `torch.optim.Adam`.
            lr: the rate that it is configured with.

        Raises:
            UserError: for an optimizer that it does not suit.
        """
        return []

    def refuse(self, why: str) -> UserError:
        """The message that names the remedy."""
        return UserError(f"remedy={self.name}: {why}")

    def residuals(self, network: nn.Module) -> list[Residual]:
        """The residual sums of a network, in order.

        Raises:
            UserError: where it has none.
        """
        found = [part for part in network.modules() if isinstance(part, Residual)]
        if not found:
            raise self.refuse(
                "is for residual branches, and this network has none; "
                "use model=residual_mlp, resnet, vit or decoder"
            )
        return found

    def refuse_scales(self, residuals: Iterable[Residual]) -> None:
        """
        Raises:
            UserError: for branches with a factor of their own, which a learned one would replace.
        """
        if any(residual.scale != 1.0 for residual in residuals):
            raise self.refuse("learns the factor of each branch itself; leave model.scale=1")

    def refuse_attention(self, network: nn.Module, use: str) -> None:
        """
        Raises:
            UserError: for a transformer.
        """
        if any(isinstance(part, Attention) for part in network.modules()):
            raise self.refuse(f"has no rule for the maps of transformers; use {use}")

    def refuse_norms(self, network: nn.Module) -> None:
        """
        Raises:
            UserError: for a network with a normalization.
        """
        kinds = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)
        if any(isinstance(p, kinds) or hasattr(p, "normalizes") for p in network.modules()):
            raise self.refuse("stands in place of a normalization; set normalization=none")


def maps_in(module: nn.Module) -> list[nn.Module]:
    """The weighted maps inside of a module, in order."""
    return [part for part in module.modules() if isinstance(part, MAPS)]


def specs_of(modules: Iterable[nn.Module], layers: list[LayerSpec]) -> list[LayerSpec]:
    """The layers whose maps are among the modules, in forward order."""
    wanted = set(map(id, modules))
    return [spec for spec in layers if spec.module is not None and id(spec.module) in wanted]


def rescale(spec: LayerSpec, factor: float) -> None:
    """Multiply a layer's weight, and say so of its declared σ_w."""
    with torch.no_grad():
        spec.weight.mul_(factor)
    if spec.sigma_w is not None:
        spec.sigma_w *= factor


def blank(spec: LayerSpec) -> None:
    """Set a layer's weight and bias to 0, and say so."""
    with torch.no_grad():
        spec.weight.zero_()
        for bias in spec.biases:
            bias.zero_()
    spec.declare(0.0, 0.0, spec.distribution or "zero")
