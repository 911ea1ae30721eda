"""The singular values of a network's Jacobian at one example: all near 1 is dynamical isometry."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from isometry.initialization.observe import preactivations

LIMIT = 1024
"""Units up to which the Jacobian is computed, exactly, row by row."""


def jacobian_singular_values(
    network: nn.Module, image: Tensor, first: int = 1, last: int | None = None
) -> NDArray[np.float64] | None:
    """Singular values of ∂h_last/∂h_first, largest first (Pennington et al. 2017, eq. 2).

    Args:
        network: with its layer map (`layers.discover.remember`); in its own precision.
        image: one example [1, channels, height, width].
        first, last: layers, from 1; the last hidden one if not given, so that all hidden layers are
            passed through.

    Returns:
        None for fewer than two hidden layers, more than `LIMIT` units in one of the two, and a
        product that overflows.
    """
    with preactivations(network) as found:
        network(image)
    hidden = found[: (len(found) - 1) if last is None else last]
    if len(hidden) <= first or max(hidden[first - 1].numel(), hidden[-1].numel()) > LIMIT:
        return None
    start = hidden[first - 1]
    end = hidden[-1]
    rows = torch.eye(end.numel(), dtype=end.dtype, device=end.device).view(-1, *end.shape)
    (jacobian,) = torch.autograd.grad(end, start, rows, is_grads_batched=True)
    if not torch.isfinite(jacobian).all():  # it overflows on the way
        return None
    values: NDArray[np.float64] = (
        torch.linalg.svdvals(jacobian.reshape(len(rows), -1)).double().cpu().numpy()
    )
    return values
