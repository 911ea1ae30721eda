"""The singular values of a network's Jacobian at one example: all near 1 is dynamical isometry."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isometry.networks.blocks import Network

LIMIT = 1024
"""Units up to which the Jacobian is computed, exactly, row by row."""


class _Keep:
    """A probe that keeps the preactivations with their graph."""

    keeps_all = True

    def __init__(self) -> None:
        self.preactivations: list[Tensor] = []

    def preactivation(self, layer: int, x: Tensor, h: Tensor) -> Tensor:
        self.preactivations.append(h)
        return h

    def activation(self, layer: int, z: Tensor, a: Tensor) -> None:
        pass


def jacobian_singular_values(
    network: Network, image: Tensor, first: int = 1, last: int | None = None
) -> NDArray[np.float64] | None:
    """Singular values of ∂h_last/∂h_first, largest first (Pennington et al. 2017, eq. 2).

    Args:
        network: any network that yields a layer map; in its own precision.
        image: one example [1, channels, height, width].
        first, last: layers, from 1; the last hidden one if not given, so that all hidden layers are
            passed through.

    Returns:
        None for fewer than two hidden layers, or more than `LIMIT` units in one of the two.
    """
    probe = _Keep()
    network(image, probe)
    hidden = probe.preactivations[: (len(probe.preactivations) - 1) if last is None else last]
    if len(hidden) <= first or max(hidden[first - 1].numel(), hidden[-1].numel()) > LIMIT:
        return None
    start = hidden[first - 1]
    end = hidden[-1]
    rows = torch.eye(end.numel(), dtype=end.dtype, device=end.device).view(-1, *end.shape)
    (jacobian,) = torch.autograd.grad(end, start, rows, is_grads_batched=True)
    values: NDArray[np.float64] = (
        torch.linalg.svdvals(jacobian.reshape(len(rows), -1)).double().cpu().numpy()
    )
    return values
