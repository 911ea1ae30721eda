"""Probes: what a layer shows while it computes.

`SignalProbe` goes through the network with one micro-batch of a recorded step and keeps references to the tensors; the tap
on each preactivation is the identity whose backward also writes ‖δ_i‖² of every example into a slot. `WatchProbe` goes
with all other steps and only keeps what is needed to say which layer was the first to lose a finite value.

Everything is stored by layer, not appended: activation checkpointing runs a layer's forward pass twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from isometry.signals.norms import per_example_norms


class Tap(torch.autograd.Function):
    """The identity; its backward returns ‖g_i‖² of each example as the "gradient" of the slot.

    Squares, because autograd adds up what a layer that is applied several times sends to its slot; in float64 they neither
    overflow nor underflow.

    A Function and not a tensor hook, because a Function is compiled with the graph.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, slot: Tensor) -> Tensor:
        # a compiled graph returns an output that is a view by viewing its base outside of the graph, past the tap: the
        # readout's δ would be lost. There the copy is fused; eagerly a view costs nothing
        return h.clone() if torch.compiler.is_compiling() else h.view_as(h)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, per_example_norms(gradient).square()


class SignalProbe:
    """References to the tensors of one forward pass.

    Args:
        layers: L.
        examples: size of the micro-batch.
        device: where the network computes.

    Attributes:
        inputs, preactivations, arguments, activations: of layers 1..L, once the forward pass has run.
    """

    def __init__(self, layers: int, examples: int, device: torch.device):
        # each its own storage, as leaves of a compiled graph should be
        self.slots = [torch.zeros(examples, dtype=torch.float64, device=device, requires_grad=True) for _ in range(layers)]
        self.inputs: list[Tensor] = [torch.empty(0)] * layers
        self.preactivations: list[Tensor] = [torch.empty(0)] * layers
        self.arguments: list[Tensor] = [torch.empty(0)] * layers
        self.activations: list[Tensor] = [torch.empty(0)] * layers

    def preactivation(self, layer: int, x: Tensor, h: Tensor) -> Tensor:
        self.inputs[layer - 1] = x.detach()
        self.preactivations[layer - 1] = h.detach()
        return Tap.apply(h, self.slots[layer - 1])  # type: ignore[no-any-return]

    def activation(self, layer: int, z: Tensor, a: Tensor) -> None:
        self.arguments[layer - 1] = z.detach()
        self.activations[layer - 1] = a.detach()

    def squared_deltas(self) -> list[Tensor]:
        """After the backward pass: ‖δ_i‖² [B] of every layer, in the scale of the loss that was differentiated."""
        return [torch.full_like(slot, torch.nan) if slot.grad is None else slot.grad for slot in self.slots]


class WatchProbe:
    """Keeps the preactivations of one forward pass and nothing else."""

    def __init__(self, layers: int):
        self.preactivations: list[Tensor] = [torch.empty(0)] * layers

    def preactivation(self, layer: int, x: Tensor, h: Tensor) -> Tensor:
        self.preactivations[layer - 1] = h.detach()
        return h

    def activation(self, layer: int, z: Tensor, a: Tensor) -> None:
        pass
