"""Probes: what a layer shows while it computes.

`SignalProbe` goes through the network with one micro-batch of a recorded step and keeps references
to the tensors, and to δ as it comes by in the backward pass; where that is not to be had or would
be large, a preactivation goes through a tap, the identity whose backward also writes ‖δ_i‖² of
every example into a slot. `WatchProbe` goes with all other steps and only keeps what is needed to
say which layer was the first to lose a finite value.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from isometry.signals.layer_by_layer import LayerByLayer
from isometry.signals.norms import per_example_squares
from isometry.signals.reductions import Reductions
from isometry.signals.workspace import WHOLE


class Tap(torch.autograd.Function):
    """The identity; its backward returns ‖g_i‖² of each example as the "gradient" of the slot.

    Squares, because autograd adds up what a layer that is applied several times sends to its slot;
    in float64 they neither overflow nor underflow.

    A Function and not a tensor hook, because a Function is compiled with the graph.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, slot: Tensor) -> Tensor:
        # a compiled graph returns an output that is a view by viewing its base outside of the
        # graph, past the tap: the readout's δ would be lost. There the copy is fused; eagerly a
        # view costs nothing
        return h.clone() if torch.compiler.is_compiling() else h.view_as(h)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, per_example_squares(gradient.unsqueeze(0))[0]


class SignalProbe:
    """References to the tensors of one forward pass.

    A network with a checkpointing of its own runs a layer's forward pass twice: what is stored by
    layer is then stored again, and a preactivation of the second pass has no gradient.

    Args:
        layers: L.
        examples: size of the micro-batch.
        device: where the network computes.
        compiled: True where the network runs under `torch.compile`.
        at_once: measures a layer as it computes; None keeps the tensors of all layers.

    Attributes:
        inputs, activations: of layers 1..L, once the forward pass has run.
        preactivations, arguments: likewise, of the layers that have not been measured at once.
        nothing: what stands in their place else.
        seen: the layers (from 0) whose δ is kept, in the order of the forward pass.
        deltas: δ of each, in the scale of the loss that was differentiated; None until the backward
            pass has come by.
    """

    keeps_all = True

    def __init__(
        self,
        layers: int,
        examples: int,
        device: torch.device,
        compiled: bool = False,
        at_once: LayerByLayer | None = None,
    ):
        self.layers = layers
        self.examples = examples
        self.device = device
        self.compiled = compiled
        self.at_once = at_once
        self.nothing = torch.empty(0)
        self.inputs: list[Tensor] = [self.nothing] * layers
        self.preactivations: list[Tensor] = [self.nothing] * layers
        self.arguments: list[Tensor] = [self.nothing] * layers
        self.activations: list[Tensor] = [self.nothing] * layers
        self.seen: list[int] = []
        self.deltas: list[Tensor | None] = []
        # made on the first tap, all at once: a compiled graph wants its leaves before it runs, each
        # its own storage
        self.slots: list[Tensor] = []
        if compiled:
            self._prepare_taps()

    def _prepare_taps(self) -> None:
        if not self.slots:
            zeros = (
                torch.zeros(self.examples, dtype=torch.float64, device=self.device)
                for _ in range(self.layers)
            )
            self.slots = [slot.requires_grad_() for slot in zeros]

    def preactivation(self, layer: int, x: Tensor, h: Tensor) -> Tensor:
        compiled = self.compiled
        k = layer - 1
        self.inputs[k] = x.detach() if compiled else x
        self.preactivations[k] = h.detach() if compiled else h
        if self.at_once is not None and (k == 0 or x is not self.activations[k - 1]):
            self.at_once.see_input(k, x)
        if compiled or not h.requires_grad or h.numel() > WHOLE:
            return self._tapped(layer, h)
        if self.at_once is not None:
            call_with_gradient(h, self.at_once.hooks[k])
            return h
        call_with_gradient(h, functools.partial(self.deltas.__setitem__, len(self.deltas)))
        self.seen.append(k)
        self.deltas.append(None)
        return h

    def _tapped(self, layer: int, h: Tensor) -> Tensor:
        if not self.compiled:
            self._prepare_taps()
        return Tap.apply(h, self.slots[layer - 1])  # type: ignore[no-any-return]

    def activation(self, layer: int, z: Tensor, a: Tensor) -> None:
        k = layer - 1
        self.arguments[k] = z.detach() if self.compiled else z
        self.activations[k] = a.detach() if self.compiled else a
        if self.at_once is not None and self.at_once.see(k, self.preactivations[k], a):
            self.preactivations[k] = self.nothing
            if k not in self.at_once.arguments:
                self.arguments[k] = self.nothing

    def outer_products(self, reductions: Reductions, squared_inputs: Tensor) -> Tensor:
        """After the backward pass: Σ_i ‖δ_i‖² and Σ_i ‖δ_i‖²‖x_i‖² of every layer, [2, L], in the
        scale of the loss that was differentiated.

        Args:
            reductions: those of the device.
            squared_inputs: ‖x_i‖², [L, B].
        """
        if self.at_once is not None and self.at_once.complete:
            return self.at_once.products
        layers, deltas = self.kept()
        if layers == list(range(self.layers)):
            return reductions.outer_products(deltas, squared_inputs)
        squares = self._squared_deltas(reductions, layers, deltas)
        return torch.stack([squares.sum(1), (squares * squared_inputs).sum(1)])

    def kept(self) -> tuple[list[int], list[Tensor]]:
        """The layers (from 0) whose δ is kept and came by, and δ of each."""
        pairs = (
            zip(self.seen, self.deltas, strict=True)
            if self.at_once is None
            else self.at_once.take_left().items()
        )
        found = [(layer, delta) for layer, delta in pairs if delta is not None]
        return [layer for layer, _ in found], [delta.contiguous() for _, delta in found]

    def _squared_deltas(
        self, reductions: Reductions, layers: list[int], deltas: list[Tensor]
    ) -> Tensor:
        """‖δ_i‖² [L, B]; a layer that is applied several times has the sum, NaN where no gradient
        came by.
        """
        squares = reductions.example_squares(deltas) if deltas else None
        found: list[Tensor | None] = [slot.grad for slot in self.slots] or [None] * self.layers
        if self.at_once is not None:
            found = [
                self.at_once.squared_delta(layer) if squares is None else squares
                for layer, squares in enumerate(found)
            ]
        for row, layer in enumerate(layers):
            assert squares is not None
            earlier = found[layer]
            found[layer] = squares[row] if earlier is None else earlier + squares[row]
        nothing = torch.full((self.examples,), torch.nan, dtype=torch.float64, device=self.device)
        return torch.stack([nothing if squares is None else squares for squares in found])


def call_with_gradient(h: Tensor, hook: Callable[[Tensor], None]) -> None:
    """Call a function with the gradient of h, as soon as the backward pass has it.

    `h.register_hook`, without the handle by which the hook could be removed (4 µs a layer), where
    torch lets us. Unlike `retain_grad` nothing is copied: autograd adds nothing in place to a
    tensor that somebody else holds.
    """
    node = h.grad_fn
    if type(h) is Tensor and h._backward_hooks is None and hasattr(node, "_register_hook_dict"):
        # others, whose handles count from 0, may come after
        h._backward_hooks = OrderedDict({-1: hook})
        node._register_hook_dict(h)  # type: ignore[union-attr]
    else:
        h.register_hook(hook)


class WatchProbe:
    """Keeps the preactivations of one forward pass, of a layer's last use, and nothing else.

    Args:
        layers: L.

    Attributes:
        preactivations: of layers 1..L, once the forward pass has run; under activation
            checkpointing their norms.
    """

    keeps_all = False

    def __init__(self, layers: int):
        self.preactivations: list[Tensor] = [torch.empty(0)] * layers

    def preactivation(self, layer: int, x: Tensor, h: Tensor) -> Tensor:
        self.preactivations[layer - 1] = h.detach() if torch.compiler.is_compiling() else h
        return h

    def activation(self, layer: int, z: Tensor, a: Tensor) -> None:
        pass
