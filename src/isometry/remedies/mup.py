"""Maximal update parametrization: a rate found at one width is right at others (Yang et al. 2021,
table 3).
"""

from __future__ import annotations

import re
from typing import Any, Literal

from torch import Generator, nn

from isometry.layers.spec import LayerSpec
from isometry.networks.attention import Attention
from isometry.remedies.base import Remedy, rescale

Role = Literal["input", "hidden", "output", "fixed"]

ADAPTIVE = ("Adam", "AdamW", "RMSprop", "Adagrad")
"""Optimizers whose update does not depend on the gradient's scale."""


class MuP(Remedy):
    """With r the width over the base width: the readout's weights begin √r smaller; attention
    divides by the units of a head, at a fixed number of heads; rates are multiplied by

    |                              | SGD | Adam |
    | weights of the input, biases | r   | 1    |
    | hidden weights               | 1   | 1/r  |
    | the readout's weights        | 1/r | 1/r  |
    | the readout's bias, scalars  | 1   | 1    |

    At the base width it changes nothing. The width is what the readout reads.

    Args:
        base_width: where the rate was found.
    """

    def __init__(self, base_width: int):
        self.base_width = base_width

    def alter(self, network: nn.Module) -> None:
        attention = [part for part in network.modules() if isinstance(part, Attention)]
        if any(part.scale is not None for part in attention):
            raise self.refuse(
                "sets the scale of attention itself; leave model.attention_scale=null"
            )
        for part in attention:
            units = part.query.out_features / part.heads
            part.scale = (units * part.query.in_features / self.base_width) ** -0.5

    def begin(self, network: nn.Module, layers: list[LayerSpec], generator: Generator) -> None:
        kinds = {spec.map for spec in layers if spec.kind == "hidden"}
        if {"linear", "conv"} <= kinds:
            raise self.refuse("is for networks of one width; model=vgg has two")
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
        found: dict[Role, list[nn.Parameter]] = {role: [] for role in factors}
        for parameter in network.parameters():
            found[roles.get(id(parameter), "input")].append(parameter)
        return [
            {"params": parameters, "lr": lr * factors[role]}
            for role, parameters in found.items()
            if parameters
        ]

    def _factors(self, optimizer: str, ratio: float) -> dict[Role, float]:
        if optimizer == "SGD":
            return {"input": ratio, "hidden": 1.0, "output": 1 / ratio, "fixed": 1.0}
        if optimizer in ADAPTIVE:
            return {"input": 1.0, "hidden": 1 / ratio, "output": 1 / ratio, "fixed": 1.0}
        raise self.refuse(f"has no rule for {optimizer}; use sgd, adam or their kind")


def _roles(network: nn.Module, layers: list[LayerSpec]) -> dict[int, Role]:
    """By the identity of a parameter: `hidden` where both sides grow with the width, `output` where
    only the inputs do, `fixed` where nothing does; all others belong to the input.
    """
    roles: dict[int, Role] = {id(p): "fixed" for p in network.parameters() if p.dim() == 0}
    for spec in layers:
        if spec.kind == "readout":
            roles |= dict.fromkeys(map(id, spec.weights), "output")
            roles |= dict.fromkeys(map(id, spec.biases), "fixed")
        elif spec.index > 1:
            roles |= dict.fromkeys(map(id, spec.weights), "hidden")
    for name, parameter in network.named_parameters():
        if RECURRENT.search(name):
            roles[id(parameter)] = "hidden"
    return roles


RECURRENT = re.compile(r"weight_hh_l|weight_ih_l[1-9]")
"""torch's names of what reads a recurrence's own units."""
