"""The loss scale of fp16 mixed precision: which tensors still carry it, and when."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def loss_scale(scaler: Any | None) -> float | Tensor:
    """The factor on the loss that is differentiated, and so on every δ; 1 without a scaler.

    A tensor on the scaler's device: `get_scale()` would wait for the device.
    """
    if scaler is None or not scaler.is_enabled():
        return 1.0
    scale: Tensor = scaler._get_scale_async()
    return 1.0 if scale is None else scale.double()


def gradient_scale(scaler: Any | None, optimizer: Any) -> float | Tensor:
    """The factor that the gradients carry just before the optimizer's step.

    Lightning has unscaled them by then, except for an optimizer that unscales in its own (fused)
    kernel.
    """
    fused = getattr(optimizer, "_step_supports_amp_scaling", False)
    return loss_scale(scaler) if fused else 1.0
