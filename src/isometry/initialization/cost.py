"""What a network costs, counted before anything slow is begun."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from isometry.initialization.observe import typed

PRODUCTS = 1e10
"""Operations of a forward pass up to which a dozen products with a Hessian take seconds."""

STEPS = 1e9
"""Likewise, up to which some hundred training steps do."""


def forward_operations(network: nn.Module, inputs: Any) -> int:
    """Floating-point operations of a forward pass, as torch counts them: those of the weights.

    Args:
        network: comes back in float64.
        inputs: a tensor, or a tuple of arguments.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.double()(*typed(inputs, torch.float64))
    return int(counter.get_total_flops())
