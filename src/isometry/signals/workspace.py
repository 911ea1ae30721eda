"""Float64 copies of many tensors, a cache-sized chunk at a time, in memory that is allocated once.

Thirty layers of 100 units are thirty small kernels for each number one wants of them, and freshly mapped memory costs more than
the arithmetic. Here consecutive tensors of one shape are copied into one block, and every statistic is one kernel a block.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Sequence

import torch
from torch import Tensor

CHUNK = 2**19
"""Entries of a block: 4 MiB in float64, which stay in the cache between one kernel and the next."""

WHOLE = 2**17
"""A tensor with more entries is read where it is: its kernels are large enough by themselves."""


@functools.lru_cache(maxsize=256)
def runs(shapes: tuple[torch.Size, ...], keys: tuple[Hashable, ...] | None = None) -> tuple[range, ...]:
    """Consecutive positions of equal shape (and key), in pieces of at most `CHUNK` entries; a large tensor is alone."""
    found: list[range] = []
    labels = list(zip(shapes, keys or [None] * len(shapes), strict=True))
    for (shape, _), members in itertools.groupby(range(len(labels)), key=lambda i: labels[i]):
        positions, entries = list(members), max(1, math.prod(shape))
        size = 1 if entries > WHOLE else max(1, CHUNK // entries)
        found += [range(p[0], p[-1] + 1) for p in (positions[i : i + size] for i in range(0, len(positions), size))]
    return tuple(found)


class Workspace:
    """Two pages of memory on a device: one for the copies, a spare one for what is computed from them.

    What is yielded is overwritten by the next chunk.

    Args:
        device: where the tensors live.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._memory = [torch.empty(0, dtype=torch.float64, device=device) for _ in range(2)]
        self._blocks: dict[tuple[int, int, torch.Size], tuple[Tensor, list[Tensor]]] = {}

    def _block(self, page: int, count: int, shape: torch.Size) -> tuple[Tensor, list[Tensor]]:
        """A block [count, *shape] at the beginning of a page, and its rows."""
        entries = count * math.prod(shape)
        if entries > self._memory[page].numel():
            self._memory[page] = torch.empty(entries, dtype=torch.float64, device=self.device)
            self._blocks = {key: value for key, value in self._blocks.items() if key[0] != page}
        key = (page, count, shape)
        if key not in self._blocks:
            block = self._memory[page][:entries].view(count, *shape)
            self._blocks[key] = (block, list(block.unbind(0)))
        return self._blocks[key]

    def chunks(self, tensors: Sequence[Tensor], keys: Sequence[Hashable] | None = None) -> Iterator[tuple[range, Tensor]]:
        """Positions and values [G, *shape] of consecutive tensors of one shape: float64 copies, or a large tensor itself."""
        for positions in runs(tuple(tensor.shape for tensor in tensors), None if keys is None else tuple(keys)):
            first = tensors[positions[0]]
            if first.numel() > WHOLE:
                yield positions, first.unsqueeze(0)
                continue
            block, rows = self._block(0, len(positions), first.shape)
            torch._foreach_copy_(rows, list(tensors[positions.start : positions.stop]))
            yield positions, block

    def spare(self, chunk: Tensor) -> Tensor:
        """Uninitialized memory of the shape and type of a chunk."""
        if chunk.dtype != torch.float64 or chunk.numel() > CHUNK:
            return torch.empty_like(chunk)
        return self._block(1, len(chunk), chunk.shape[1:])[0]

    def map(self, tensors: Sequence[Tensor], function: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply a function [G, *shape] -> [G, ...] chunk by chunk; the results in the order of the tensors."""
        if not tensors:
            return torch.empty(0, dtype=torch.float64, device=self.device)
        results = [function(chunk) for _, chunk in self.chunks(tensors)]
        return results[0] if len(results) == 1 else torch.cat(results)
