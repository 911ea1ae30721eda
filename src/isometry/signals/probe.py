"""Probes: what a layer shows while it computes.

`SignalProbe` goes through the network with one micro-batch of a recorded step and keeps references to the tensors; a
preactivation keeps its gradient δ, or, where that is not to be had or would be large, goes through a tap, the identity whose
backward also writes ‖δ_i‖² of every example into a slot. `WatchProbe` goes with all other steps and only keeps what is needed
to say which layer was the first to lose a finite value.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from isometry.signals.norms import per_example_squares
from isometry.signals.reductions import Reductions
from isometry.signals.workspace import WHOLE


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
        return gradient, per_example_squares(gradient.unsqueeze(0))[0]


class SignalProbe:
    """References to the tensors of one forward pass.

    A network with a checkpointing of its own runs a layer's forward pass twice: what is stored by layer is then stored again,
    and a preactivation of the second pass has no gradient.

    Args:
        layers: L.
        examples: size of the micro-batch.
        device: where the network computes.

    Attributes:
        inputs, preactivations, arguments, activations: of layers 1..L, once the forward pass has run.
    """

    keeps_all = True

    def __init__(self, layers: int, examples: int, device: torch.device):
        self.layers, self.examples, self.device = layers, examples, device
        self.inputs: list[Tensor] = [torch.empty(0)] * layers
        self.preactivations: list[Tensor] = [torch.empty(0)] * layers
        self.arguments: list[Tensor] = [torch.empty(0)] * layers
        self.activations: list[Tensor] = [torch.empty(0)] * layers
        self.retaining: list[tuple[int, Tensor]] = []
        # made on the first tap, all at once: a compiled graph wants its leaves before it runs, each its own storage
        self.slots: list[Tensor] = []

    def prepare_taps(self) -> None:
        """Make the slots; needed before a compiled network runs."""
        if not self.slots:
            zeros = (torch.zeros(self.examples, dtype=torch.float64, device=self.device) for _ in range(self.layers))
            self.slots = [slot.requires_grad_() for slot in zeros]

    def preactivation(self, layer: int, x: Tensor, h: Tensor) -> Tensor:
        compiled = torch.compiler.is_compiling()
        self.inputs[layer - 1] = x.detach() if compiled else x
        self.preactivations[layer - 1] = h.detach() if compiled else h
        if compiled or not h.requires_grad or h.numel() > WHOLE:
            return self._tapped(layer, h)
        h.retain_grad()
        self.retaining.append((layer - 1, h))
        return h

    def _tapped(self, layer: int, h: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self.prepare_taps()
        return Tap.apply(h, self.slots[layer - 1])  # type: ignore[no-any-return]

    def activation(self, layer: int, z: Tensor, a: Tensor) -> None:
        compiled = torch.compiler.is_compiling()
        self.arguments[layer - 1] = z.detach() if compiled else z
        self.activations[layer - 1] = a.detach() if compiled else a

    def outer_products(self, reductions: Reductions, squared_inputs: Tensor) -> Tensor:
        """After the backward pass: Σ_i ‖δ_i‖² and Σ_i ‖δ_i‖²‖x_i‖² of every layer, [2, L], in the scale of the loss that was
        differentiated.

        Args:
            reductions: those of the device.
            squared_inputs: ‖x_i‖², [L, B].
        """
        retained = [(layer, h.grad) for layer, h in self.retaining if h.grad is not None]
        if [layer for layer, _ in retained] == list(range(self.layers)):
            return reductions.outer_products([gradient for _, gradient in retained], squared_inputs)
        squares = self._squared_deltas(reductions, retained)
        return torch.stack([squares.sum(1), (squares * squared_inputs).sum(1)])

    def _squared_deltas(self, reductions: Reductions, retained: list[tuple[int, Tensor]]) -> Tensor:
        """‖δ_i‖² [L, B]; a layer that is applied several times has the sum, NaN where no gradient came by."""
        squares = reductions.example_squares([gradient for _, gradient in retained]) if retained else None
        found: list[Tensor | None] = [slot.grad for slot in self.slots] or [None] * self.layers
        for row, (layer, _) in enumerate(retained):
            assert squares is not None
            earlier = found[layer]
            found[layer] = squares[row] if earlier is None else earlier + squares[row]
        nothing = torch.full((self.examples,), torch.nan, dtype=torch.float64, device=self.device)
        return torch.stack([nothing if squares is None else squares for squares in found])


class WatchProbe:
    """Keeps the preactivations of one forward pass, of a layer's last use, and nothing else.

    Args:
        layers: L.

    Attributes:
        preactivations: of layers 1..L, once the forward pass has run; under activation checkpointing their norms.
    """

    keeps_all = False

    def __init__(self, layers: int):
        self.preactivations: list[Tensor] = [torch.empty(0)] * layers

    def preactivation(self, layer: int, x: Tensor, h: Tensor) -> Tensor:
        self.preactivations[layer - 1] = h.detach() if torch.compiler.is_compiling() else h
        return h

    def activation(self, layer: int, z: Tensor, a: Tensor) -> None:
        pass
