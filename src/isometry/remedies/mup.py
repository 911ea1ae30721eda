"""Maximal update parametrization: a rate found at one width is right at others (Yang et al. 2021,
table 3).
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Generator, nn

from isometry.layers.spec import LayerSpec
from isometry.networks.attention import Attention
from isometry.remedies.base import Remedy, rescale

Role = Literal["input", "hidden", "output"]

ADAPTIVE = ("Adam", "AdamW", "RMSprop", "Adagrad")
"""Optimizers whose update does not depend on the gradient's scale."""


class MuP(Remedy):
    """With r the width over the base width: the readout's weights begin √r smaller; attention
    divides by the units of a head; rates are multiplied by

    |                   | SGD | Adam |
    | input, vectors    | r   | 1    |
    | hidden weights    | 1   | 1/r  |
    | readout's weights | 1/r | 1/r  |

    At the base width it changes nothing. The width is what the readout reads.

    Args:
        base_width: where the rate was found.
    """

    def __init__(self, base_width: int):
        self.base_width = base_width

    def alter(self, network: nn.Module) -> None:
        for part in network.modules():
            if isinstance(part, Attention):
                units = part.query.out_features / part.heads
                part.scale = (units * part.query.in_features / self.base_width) ** -0.5

    def begin(self, network: nn.Module, layers: list[LayerSpec], generator: Generator) -> None:
        for spec in layers:
            if spec.kind == "readout":
                rescale(spec, self._ratio(layers) ** -0.5)

    def _ratio(self, layers: list[LayerSpec]) -> float:
        return layers[-1].fan_in / self.base_width

    def groups(
        self, network: nn.Module, layers: list[LayerSpec], optimizer: str, lr: float
    ) -> list[dict[str, Any]]:
        factors = self._factors(optimizer.rpartition(".")[2], self._ratio(layers))
        roles = _roles(network, layers)
        found: dict[Role, list[nn.Parameter]] = {"input": [], "hidden": [], "output": []}
        for parameter in network.parameters():
            found[roles.get(id(parameter), "input")].append(parameter)
        return [
            {"params": parameters, "lr": lr * factors[role]}
            for role, parameters in found.items()
            if parameters
        ]

    def _factors(self, optimizer: str, ratio: float) -> dict[Role, float]:
        if optimizer == "SGD":
            return {"input": ratio, "hidden": 1.0, "output": 1 / ratio}
        if optimizer in ADAPTIVE:
            return {"input": 1.0, "hidden": 1 / ratio, "output": 1 / ratio}
        raise self.refuse(f"has no rule for {optimizer}; use sgd, adam or their kind")


def _roles(network: nn.Module, layers: list[LayerSpec]) -> dict[int, Role]:
    """By the identity of a weight: `hidden` where both of its sides grow with the width, `output`
    where only its inputs do; all others belong to the input.
    """
    roles: dict[int, Role] = {}
    for spec in layers:
        for weight in spec.weights:
            if spec.kind == "readout":
                roles[id(weight)] = "output"
            elif spec.index > 1:
                roles[id(weight)] = "hidden"
    return roles
