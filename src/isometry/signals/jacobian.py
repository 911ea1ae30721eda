"""The singular values of a network's Jacobian at one example: all near 1 is dynamical isometry."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isometry.networks.layer import Network

LIMIT = 1024
"""Units up to which the Jacobian is computed, exactly, row by row."""


class _Keep:
    """A probe that keeps the preactivations with their graph."""

    def __init__(self) -> None:
        self.preactivations: list[Tensor] = []

    def preactivation(self, layer: int, x: Tensor, h: Tensor) -> Tensor:
        self.preactivations.append(h)
        return h

    def activation(self, layer: int, z: Tensor, a: Tensor) -> None:
        pass


def jacobian_singular_values(network: Network, image: Tensor) -> NDArray[np.float64] | None:
    """Singular values of ∂h_{L-1}/∂h_1, the map through the hidden layers, largest first (Pennington et al. 2017, eq. 2).

    Args:
        network: any network that yields a layer map; in its own precision.
        image: one example [1, channels, height, width].

    Returns:
        None for fewer than two hidden layers, or more than `LIMIT` units in one of the two.
    """
    probe = _Keep()
    network(image, probe)
    hidden = probe.preactivations[:-1]
    if len(hidden) < 2 or max(hidden[0].numel(), hidden[-1].numel()) > LIMIT:
        return None
    first, last = hidden[0], hidden[-1]
    rows = torch.eye(last.numel(), dtype=last.dtype, device=last.device).view(-1, *last.shape)
    (jacobian,) = torch.autograd.grad(last, first, rows, is_grads_batched=True)
    values: NDArray[np.float64] = torch.linalg.svdvals(jacobian.reshape(len(rows), -1)).double().cpu().numpy()
    return values
