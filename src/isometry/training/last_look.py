"""Non-finite numbers that no step records: those that the last update writes, and those on which
torch's anomaly detection stops.
"""

from __future__ import annotations

import re

import torch
from torch import nn

from isometry.layers.discover import layers_of
from isometry.signals.flush import Divergence


def lost_weights(network: nn.Module, step: int) -> Divergence | None:
    """What the next forward pass would meet: the lowest layer whose parameters the last update has
    made non-finite; None where all are finite.

    Args:
        network: of the run.
        step: the updates it has had.
    """
    layers = [
        spec.index
        for spec in layers_of(network)
        if not all(_finite(parameter) for parameter in (*spec.weights, *spec.biases))
    ]
    if not layers and all(map(_finite, network.parameters())):
        return None
    lowest = min(layers, default=1)
    return Divergence(step, "forward", lowest, forward_layer=lowest)


def _finite(parameter: torch.Tensor) -> bool:
    return bool(torch.isfinite(parameter.detach()).all())


def anomaly(error: RuntimeError) -> str | None:
    """The operation whose gradient `trainer.detect_anomaly` found to be not finite; None for other
    errors.
    """
    found = re.match(r"Function '(\w+)' returned nan values", str(error))
    return found.group(1) if found else None
