"""What is computed from the tensors of all layers: the same few reductions for every device.

`Reductions` works in torch, on any device, without looking at a value; `isometry.signals.native` has a faster form for the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from isometry.signals.norms import known_finite, norms, per_example_squares
from isometry.signals.statistics import Intervals, alive_units, moments, share_inside
from isometry.signals.workspace import Workspace


class Fixed(list[Tensor]):
    """Tensors that stay where they are in memory, as weights do in training.

    Attributes:
        place: where that is, once somebody has looked.
    """

    place: tuple[Any, ...] = ()


class Reductions:
    """Reductions of lists of tensors on one device; all results are float64, on it, and outside of autograd.

    Args:
        device: where the tensors live.
    """

    def __init__(self, device: torch.device):
        self.device, self.workspace = device, Workspace(device)
        self._widths: tuple[int, ...] = ()

    @torch.no_grad()
    def copy(self, tensors: Sequence[Tensor], origin: Sequence[Tensor], into: Sequence[Tensor]) -> Tensor:
        """Copy each tensor; its norm and its distance from `origin`, [2, n]."""
        torch._foreach_copy_(list(into), list(tensors))
        return torch.stack([self.norms(tensors), self.distances(tensors, origin)])

    @torch.no_grad()
    def norms(self, tensors: Sequence[Tensor]) -> Tensor:
        """The Euclidean norm of each tensor, [n]."""
        return norms(list(tensors), self.device)

    def watch(self, tensors: Sequence[Tensor]) -> tuple[Tensor, bool]:
        """`norms`, and whether all are finite; False where that is not known without waiting for the device."""
        found = self.norms(tensors)
        return found, known_finite(found)

    def screen(self, tensors: Sequence[Tensor], others: Sequence[Tensor], into: Any) -> bool:
        """Whether all is finite; False where that is not known without waiting for the device.

        Args:
            tensors: n tensors, whose norms go to a place, maybe rounded as the tensors' own numbers are.
            others: more tensors.
            into: the place of n numbers.
        """
        found, finite = self.watch(tensors)
        self.place(found, into)
        return finite and all(map(known_finite, others))

    @torch.no_grad()
    def distances(self, tensors: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
        """‖x - y‖ of each pair, [n]; the differences in the tensors' own precision, where they are what happened."""
        return self.norms(torch._foreach_sub(list(tensors), list(others)))

    @torch.no_grad()
    def example_squares(self, tensors: Sequence[Tensor]) -> Tensor:
        """‖x_i‖² of each example of batches of one size B, [n, B]."""
        return self.workspace.map(tensors, per_example_squares)

    @torch.no_grad()
    def outer_products(self, tensors: Sequence[Tensor], others: Tensor) -> Tensor:
        """Σ_i ‖x_i‖² and Σ_i ‖x_i‖² `others`_i over the examples of batches of one size B: [2, n].

        Args:
            tensors: the batches.
            others: a number of each example, [n, B].
        """
        squares = self.example_squares(tensors)
        return torch.stack([squares.sum(1), (squares * others).sum(1)])

    @torch.no_grad()
    def preactivations(self, tensors: Sequence[Tensor], intervals: Sequence[Intervals | None]) -> Tensor:
        """Mean and variance over batch and units, and the share of entries in the intervals (NaN for None): [3, n]."""
        found: list[Tensor] = []
        for positions, block in self.workspace.chunks(tensors, intervals):
            spare, inside = self.workspace.spare(block), intervals[positions[0]]
            mean, variance = moments(block, spare)
            share = torch.full_like(mean, torch.nan) if inside is None else share_inside(block, spare, inside)
            found.append(torch.stack([mean, variance, share]))
        return torch.cat(found, dim=1)

    @torch.no_grad()
    def activations(self, tensors: Sequence[Tensor], widths: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and variance, [2, n]; 1 for each unit (channel of a feature map) that is non-zero anywhere, one behind the other
        in [units of all tensors]; and ‖a_i‖² of each example behind a row of NaN, [1 + n, B].

        Args:
            tensors: [B, units, ...] each.
            widths: their units.
        """
        found: list[Tensor] = []
        alive: list[Tensor] = []
        squares = [torch.full((1, len(tensors[0])), torch.nan, dtype=torch.float64, device=self.device)]
        for _, block in self.workspace.chunks(tensors):
            spare = self.workspace.spare(block)
            found.append(torch.stack(moments(block, spare)))
            alive.append(alive_units(block, spare).flatten())
            squares.append(per_example_squares(block))
        return torch.cat(found, dim=1), torch.cat(alive), torch.cat(squares)

    def forward(
        self, h: Sequence[Tensor], intervals: Sequence[Intervals | None], a: Sequence[Tensor], widths: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`preactivations` of h above the moments of `activations` of a, [5, n], and what else `activations` returns."""
        moments, alive, squares = self.activations(a, widths)
        return torch.cat([self.preactivations(h, intervals), moments]), alive, squares

    @torch.no_grad()
    def shares(self, alive: Tensor, widths: tuple[int, ...]) -> Tensor:
        """Tensor by tensor, [n], the share of units that are 1 in `alive` [units of all tensors]."""
        if widths != self._widths:
            width = torch.tensor(widths, device=self.device)
            owner = torch.arange(len(widths), device=self.device).repeat_interleave(width, output_size=len(alive))
            self._widths, self._owner, self._width = widths, owner, width.double()
        return torch.zeros_like(self._width).index_add_(0, self._owner, alive) / self._width

    def places(self, rows: Tensor) -> list[Any]:
        """The rows as places to write to."""
        return list(rows.unbind(0))

    def place(self, values: Tensor, into: Any) -> None:
        """Write values [n] (or one for all) to a place."""
        into.copy_(values)

    def place_rows(self, blocks: Sequence[Tensor], into: Any) -> None:
        """Write blocks of rows, [n] or [k, n], to a place [sum of k, n], one below the other."""
        torch.cat([block if block.dim() == 2 else block.unsqueeze(0) for block in blocks], out=into)

    def replace(self, rows: Tensor, at: Sequence[int], by: Tensor) -> None:
        """Overwrite some rows."""
        for index, row in zip(at, by, strict=True):
            rows[index] = row
