"""What is computed from the tensors of all layers: the same few reductions for every device.

`Reductions` works in torch, on any device, without looking at a value; `isometry.signals.native`
has a faster form for the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from isometry.signals.layer_by_layer import LayerByLayer
from isometry.signals.norms import (
    distances,
    known_finite,
    norms,
    per_example_norms,
    per_example_squares,
)
from isometry.signals.statistics import (
    Saturated,
    count_inside,
    largest_by_unit,
    moments,
    shifted_sums,
)
from isometry.signals.workspace import Workspace


class Fixed(list[Tensor]):
    """Tensors that stay where they are in memory, as weights do in training.

    Attributes:
        place: where that is, once somebody has looked.
    """

    place: tuple[Any, ...] = ()


class Reductions:
    """Reductions of lists of tensors on one device; all results are float64, on it, and outside of
    autograd.

    Args:
        device: where the tensors live.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.workspace = Workspace(device)
        self._widths: tuple[int, ...] = ()
        self._sizes: dict[tuple[int, ...], Tensor] = {}

    @torch.no_grad()
    def copy(
        self, tensors: Sequence[Tensor], origin: Sequence[Tensor], into: Sequence[Tensor]
    ) -> Tensor:
        """Copy each tensor; its norm and its distance from `origin`, [2, n]."""
        torch._foreach_copy_(list(into), list(tensors))
        return torch.stack([self.norms(tensors), self.distances(tensors, origin)])

    @torch.no_grad()
    def norms(self, tensors: Sequence[Tensor]) -> Tensor:
        """The Euclidean norm of each tensor, [n]."""
        return norms(list(tensors), self.device)

    def watch(self, tensors: Sequence[Tensor]) -> tuple[Tensor, bool]:
        """`norms`, and whether all are finite; False where that is not known without waiting for
        the device.
        """
        found = self.norms(tensors)
        return found, known_finite(found)

    def screen(self, tensors: list[Tensor | None], others: list[Tensor], into: Any) -> bool:
        """Whether all is there and finite, where one look shows that; the norms are then at their
        place. False elsewhere.

        Args:
            tensors: n of them; their norms may be rounded as their own numbers are.
            others: more tensors.
            into: the place of n numbers.
        """
        return False

    @torch.no_grad()
    def distances(self, tensors: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
        """‖x - y‖ of each pair, [n]; the differences in the tensors' own precision, where they are
        what happened.
        """
        return distances(list(tensors), list(others), self.device)

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
    def preactivations(self, tensors: Sequence[Tensor], intervals: Saturated) -> Tensor:
        """Mean and variance over batch and units, and the share of entries in the intervals (NaN
        for None): [3, n].
        """
        sums, inside = self._sums_inside(tensors, intervals)
        counts = self._counts(tensors)
        return torch.stack([*moments(torch.cat(sums, dim=1), counts), torch.cat(inside) / counts])

    def _sums_inside(
        self, tensors: Sequence[Tensor], intervals: Saturated
    ) -> tuple[list[Tensor], list[Tensor]]:
        """By chunk: `shifted_sums`, and how many entries lie in the intervals."""
        sums: list[Tensor] = []
        found: list[Tensor] = []
        for positions, block in self.workspace.chunks(tensors, intervals):
            spare = self.workspace.spare(block)
            inside = intervals[positions[0]]
            sums.append(shifted_sums(block, spare))
            found.append(
                torch.full_like(sums[-1][0], torch.nan)
                if inside is None
                else count_inside(block, spare, inside)
            )
        return sums, found

    @torch.no_grad()
    def activations(
        self, tensors: Sequence[Tensor], widths: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and variance, [2, n]; 1 for each unit (channel of a feature map) that is non-zero
        anywhere, one behind the other in [units of all tensors]; and ‖a_i‖² of each example behind
        a row of NaN, [1 + n, B].

        Args:
            tensors: [B, units, ...] each.
            widths: their units.
        """
        sums, alive, squares = self._sums_alive(tensors)
        return torch.stack(moments(torch.cat(sums, dim=1), self._counts(tensors))), alive, squares

    def _sums_alive(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], Tensor, Tensor]:
        """By chunk `shifted_sums`; and what else `activations` returns."""
        sums: list[Tensor] = []
        largest: list[Tensor] = []
        norms = [
            torch.full((1, len(tensors[0])), torch.nan, dtype=torch.float64, device=self.device)
        ]
        for _, block in self.workspace.chunks(tensors):
            spare = self.workspace.spare(block)
            sums.append(shifted_sums(block, spare))
            largest.append(largest_by_unit(block, spare).flatten())
            norms.append(per_example_norms(block))
        return sums, torch.cat(largest).ne(0).double(), torch.cat(norms).square()

    @torch.no_grad()
    def forward(
        self, h: Sequence[Tensor], inside: Saturated, a: Sequence[Tensor], widths: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`preactivations` of h above the moments of `activations` of a, [5, n], and what else
        `activations` returns.
        """
        of_h, counted = self._sums_inside(h, inside)
        of_a, alive, squares = self._sums_alive(a)
        n = len(h)
        counts = self._counts([*h, *a])
        mean, variance = moments(torch.cat([*of_h, *of_a], dim=1), counts)
        share = torch.cat(counted) / counts[:n]
        return torch.stack([mean[:n], variance[:n], share, mean[n:], variance[n:]]), alive, squares

    def layer_by_layer(
        self, examples: int, inside: Saturated, widths: tuple[int, ...], places: Sequence[int] = ()
    ) -> LayerByLayer | None:
        """What measures a layer as it computes, faster than all of them afterwards; None where
        nothing is.

        Args:
            examples: of a micro-batch.
            inside, widths: as in `forward`.
            places: the layers (from 0) whose argument of φ the probe is to keep all the same.
        """
        return None

    def _counts(self, tensors: Sequence[Tensor]) -> Tensor:
        """Entries of each, [n], on the device; copied once, because the host waits for such a
        copy.
        """
        sizes = tuple(map(Tensor.numel, tensors))
        if sizes not in self._sizes:
            self._sizes[sizes] = torch.tensor(sizes, dtype=torch.float64, device=self.device)
        return self._sizes[sizes]

    @torch.no_grad()
    def shares(self, alive: Tensor, widths: tuple[int, ...]) -> Tensor:
        """Tensor by tensor, [n], the share of units that are 1 in `alive` [units of all
        tensors].
        """
        if widths != self._widths:
            width = torch.tensor(widths, device=self.device)
            owner = torch.arange(len(widths), device=self.device).repeat_interleave(
                width, output_size=len(alive)
            )
            self._widths = widths
            self._owner = owner
            self._width = width.double()
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
