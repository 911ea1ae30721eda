"""Clipping that Lightning does not have: each unit, or each layer, by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from isometry.layers.discover import layers_of

SMALLEST_NORM = 1e-3
"""Of a weight: one that is zero can move (Brock et al. 2021, "High-performance", sec. 4)."""

TINY = 1e-30
"""Under which a gradient is not divided by."""


@torch.no_grad()
def adaptive(network: nn.Module, limit: float) -> None:
    """Scale each unit's gradient down to `limit` times the norm of its weight, at least
    `SMALLEST_NORM` (AGC, Brock et al. 2021, eq. 3). The readout is left alone, as in the paper.
    """
    readouts = [spec for spec in layers_of(network) if spec.kind == "readout"]
    last = {id(each) for spec in readouts for each in (*spec.weights, *spec.biases)}
    for parameter in network.parameters():
        if parameter.grad is not None and id(parameter) not in last:
            most = limit * _by_unit(parameter).clamp(min=SMALLEST_NORM)
            norm = _by_unit(parameter.grad).clamp(min=TINY)
            parameter.grad.mul_((most / norm).clamp(max=1.0).to(parameter.grad))


def _by_unit(values: Tensor) -> Tensor:
    """Norm of each row, of a vector as a whole, in float64."""
    dims = None if values.dim() <= 1 else tuple(range(1, values.dim()))
    return torch.linalg.vector_norm(values.double(), dim=dims, keepdim=True)


@torch.no_grad()
def by_layer(network: nn.Module, limit: float) -> None:
    """Scale the gradient of each module's own parameters down to norm `limit`."""
    for part in network.modules():
        gradients = [p.grad for p in part.parameters(recurse=False) if p.grad is not None]
        if gradients:
            factor = (limit / _norm(gradients).clamp(min=TINY)).clamp(max=1.0)
            for gradient in gradients:
                gradient.mul_(factor.to(gradient))


def _norm(gradients: Iterable[Tensor]) -> Tensor:
    norms = [torch.linalg.vector_norm(gradient.double()) for gradient in gradients]
    return torch.linalg.vector_norm(torch.stack(norms))


OURS: dict[str, Callable[[nn.Module, float], None]] = {"adaptive": adaptive, "layer": by_layer}
"""By `trainer.gradient_clip_algorithm`; the others are Lightning's."""
