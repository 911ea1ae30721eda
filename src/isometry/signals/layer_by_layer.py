"""Statistics of a layer as it computes, while its tensors are in the cache; for the CPU.

Taken after the forward pass, those of all layers would come from far away in memory, and what
autograd does not need (h, δ) would have been kept for it: memory that is otherwise used again by
the next layer, and is in the cache then.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isometry.signals import kernels
from isometry.signals.dlpack import ASK


class LayerByLayer:
    """Room for the statistics of one micro-batch, which `kernels.see` and `see_delta` fill in; used
    again in later steps.

    Args:
        examples: B.
        starts: [L + 1] where the units of each layer start in those of all.
        low, high: [L, ≥ 1] intervals in which h counts as saturated.
        arguments: the layers (from 0) whose argument of φ the probe is to keep all the same.

    Attributes:
        forward: [5, L], as `Reductions.forward` returns it.
        alive, living: [units of all layers], 1 for those that live, and their share in each layer,
            [L].
        squares: [1 + L, B], ‖a_i‖² behind a row of NaN.
        deltas: [L, B], ‖δ_i‖² of the layers that `came`.
        products: [2, L], Σ_i ‖δ_i‖² and Σ_i ‖δ_i‖²‖x_i‖² of those.
        inputs: the layers (from 0) whose input was measured by itself.
        others: [L, B], ‖x_i‖², of which `products` are made: `settle_inputs`.
        hooks: for each layer, what to call with δ.
        left: δ of the layers that have to be measured otherwise.
    """

    def __init__(
        self,
        examples: int,
        starts: NDArray[np.int64],
        low: NDArray[np.float64],
        high: NDArray[np.float64],
        arguments: frozenset[int] = frozenset(),
    ):
        layers = len(starts) - 1
        self.examples = examples
        self.arguments = arguments
        self._came = np.zeros(layers)
        self.forward = _empty(5, layers)
        self.alive = _empty(int(starts[-1]))
        self.living = _empty(layers)
        self.squares = _empty(1 + layers, examples)
        self.deltas = _empty(layers, examples)
        self.products = _empty(2, layers)
        self.inputs: list[int] = []
        self._inputs = np.full((layers, examples), math.nan)
        self.others = _empty(layers, examples)
        self.left: dict[int, Tensor] = {}
        statistics = (
            tensor.numpy() for tensor in (self.forward, self.alive, self.living, self.squares)
        )
        gradients = (tensor.numpy() for tensor in (self.others, self.deltas, self.products))
        # kept, as the room holds their addresses
        self._arrays = [starts, low, high, *statistics, self._inputs, *gradients, self._came]
        sizes = (layers, examples, low.shape[1])
        self._room = np.array(
            [(*sizes, *(array.ctypes.data for array in self._arrays))], kernels.ROOM
        )
        self._at = self._room.ctypes.data
        self.hooks = [functools.partial(self._see_delta, layer) for layer in range(layers)]

    def open(self) -> LayerByLayer:
        """For the next micro-batch."""
        self._came[:] = 0.0
        self.left = {}
        self.inputs = []
        return self

    def see_input(self, layer: int, x: Tensor) -> None:
        """The input of a layer (from 0), where it is not the activation of the layer below."""
        if kernels.see_input(ASK, self._at, layer, id(x)):  # squares are those of the negative, too
            self.inputs.append(layer)

    def settle_inputs(self, squares: Tensor) -> Tensor:
        """Fill in `others`, which stay what they are if a layer computes again in the backward pass
        (checkpointing).

        Args:
            squares: ‖a_i‖² behind a row of NaN, [1 + L, B]; mostly, a layer's activation is the
                next one's input.
        """
        rows = self.others.numpy()  # without torch's dispatcher
        rows[:] = squares.numpy()[:-1]
        for layer in self.inputs:
            rows[layer] = self._inputs[layer]
        return self.others

    def see(self, layer: int, h: Tensor, a: Tensor) -> bool:
        """Whether the layer (from 0) is measured; else its tensors do not simply lie in memory, or
        have another shape.
        """
        seen: bool = kernels.see(ASK, self._at, layer, id(h), id(a))
        return seen and not (h.is_neg() or a.is_neg())  # not in DLPack's description

    def fill(self, layer: int, forward: Tensor, alive: Tensor, squares: Tensor) -> None:
        """The forward statistics of a layer that was measured otherwise, [5, 1], [units] and [2,
        B].
        """
        start, stop = self._arrays[0][layer : layer + 2]
        self.forward[:, layer] = forward[:, 0]
        self.alive[start:stop] = alive
        self.living[layer] = alive.mean()
        self.squares[1 + layer] = squares[1]

    def _see_delta(self, layer: int, delta: Tensor) -> None:
        if not kernels.see_delta(ASK, self._at, layer, id(delta)):
            self.left[layer] = delta

    def take_left(self) -> dict[int, Tensor]:
        """`left`, which is then let go."""
        left = self.left
        self.left = {}
        return left

    @property
    def complete(self) -> bool:
        """Whether δ of every layer came by and is in `products`."""
        return bool(self._came.all())

    def squared_delta(self, layer: int) -> Tensor | None:
        """‖δ_i‖² [B] of a layer (from 0), if it came by and is measured."""
        return self.deltas[layer] if self._came[layer] else None


def _empty(*shape: int) -> Tensor:
    return torch.full(shape, math.nan, dtype=torch.float64)
