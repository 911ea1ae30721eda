"""Float64 copies of many tensors, a cache-sized chunk at a time, in memory that is allocated once.

Thirty layers of 100 units are thirty small kernels for each number one wants of them, and freshly
mapped memory costs more than the arithmetic. Here consecutive tensors of one shape are copied into
one block, and every statistic is one kernel a block.
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

HALF = frozenset({torch.float16, torch.bfloat16})


@functools.lru_cache(maxsize=256)
def runs(
    shapes: tuple[torch.Size, ...], keys: tuple[Hashable, ...] | None = None
) -> tuple[range, ...]:
    """Consecutive positions of equal shape (and key), in pieces of at most `CHUNK` entries; a large
    tensor is alone.
    """
    found: list[range] = []
    labels = list(zip(shapes, keys or [None] * len(shapes), strict=True))
    for (shape, _), members in itertools.groupby(range(len(labels)), key=lambda i: labels[i]):
        positions = list(members)
        entries = max(1, math.prod(shape))
        size = 1 if entries > WHOLE else max(1, CHUNK // entries)
        found += [
            range(p[0], p[-1] + 1)
            for p in (positions[i : i + size] for i in range(0, len(positions), size))
        ]
    return tuple(found)


class Workspace:
    """Pages of memory on a device: for the tensors side by side, for their float64 copies, for what
    is computed from those.

    What is yielded is overwritten by the next chunk.

    Args:
        device: where the tensors live.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._pages: dict[tuple[str, torch.dtype], Tensor] = {}

    def _block(
        self, page: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """A block of a shape at the beginning of a page, which grows to the largest one asked
        for.
        """
        entries = math.prod(shape)
        key = (page, dtype)
        if key not in self._pages or self._pages[key].numel() < entries:
            self._pages[key] = torch.empty(entries, dtype=dtype, device=self.device)
        return self._pages[key][:entries].view(shape)

    def chunks(
        self, tensors: Sequence[Tensor], keys: Sequence[Hashable] | None = None
    ) -> Iterator[tuple[range, Tensor]]:
        """Positions and values [G, *shape] of consecutive tensors of one shape and type: float64
        copies, or a large tensor itself (in float32 if its numbers have 16 bit)."""
        labels = tuple(
            zip((tensor.dtype for tensor in tensors), keys or [None] * len(tensors), strict=True)
        )
        for positions in runs(tuple(tensor.shape for tensor in tensors), labels):
            first = tensors[positions[0]]
            if first.numel() > WHOLE:
                # differences of 16 bit numbers would be rounded to 16 bit
                yield positions, (first.float() if first.dtype in HALF else first).unsqueeze(0)
            else:
                yield positions, self._stacked(tensors[positions.start : positions.stop])

    def _stacked(self, tensors: Sequence[Tensor]) -> Tensor:
        """Float64 copies of tensors of one shape: first side by side, in one kernel, then
        converted, in another.
        """
        shape = (len(tensors), *tensors[0].shape)
        dtype = tensors[0].dtype
        page = "copies" if dtype == torch.float64 else "as they are"
        return self.double(torch.stack(tuple(tensors), out=self._block(page, shape, dtype)))

    def double(self, block: Tensor) -> Tensor:
        """A block in float64, where it is not too large to be copied: reductions into float64 are
        slower than a copy.
        """
        if block.dtype == torch.float64 or block.numel() > CHUNK:
            return block
        return self._block("copies", tuple(block.shape)).copy_(block)

    def spare(self, chunk: Tensor) -> Tensor:
        """Uninitialized memory of the shape and type of a chunk."""
        if chunk.dtype != torch.float64 or chunk.numel() > CHUNK:
            return torch.empty_like(chunk)
        return self._block("spare", tuple(chunk.shape))

    def map(self, tensors: Sequence[Tensor], function: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply a function [G, *shape] -> [G, ...] chunk by chunk; the results in the order of the
        tensors.
        """
        if not tensors:
            return torch.empty(0, dtype=torch.float64, device=self.device)
        results = [function(chunk) for _, chunk in self.chunks(tensors)]
        return results[0] if len(results) == 1 else torch.cat(results)
