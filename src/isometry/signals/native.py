"""The reductions for tensors in the CPU's memory, by the compiled loops of
`isometry.signals.kernels`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from isometry.signals import kernels
from isometry.signals.dlpack import ASK, DESCRIBE
from isometry.signals.layer_by_layer import LayerByLayer
from isometry.signals.norms import known_finite, seen_at_once
from isometry.signals.reductions import Fixed, Reductions
from isometry.signals.statistics import Intervals, Saturated

_NUMPY: dict[torch.dtype, type[np.floating[Any]]] = {
    torch.float32: np.float32,
    torch.float64: np.float64,
}
_BITS = {32: torch.float32, 64: torch.float64}
COMPILE_SECONDS = 60.0
"""Compiling takes a few seconds; who waits longer for another process compiles too."""


def reductions(device: torch.device) -> Reductions:
    """The fastest for a device."""
    return NativeReductions(device) if DESCRIBE and seen_at_once(device) else Reductions(device)


_LOADING = threading.Lock()


@functools.cache
def _ready(dtype: torch.dtype) -> NDArray[np.floating[Any]]:
    """An empty array of a type for which all kernels are compiled: one for each type, whichever
    thread asks first.
    """
    with _LOADING:
        return _load(dtype)


@functools.cache
def _load(dtype: torch.dtype) -> NDArray[np.floating[Any]]:
    """Compile them, or load them, for a type."""
    like = np.empty(0, _NUMPY[dtype])
    _one_process_at_a_time(functools.partial(kernels.compile_all, like))
    return like


@functools.cache
def _ready_to_find() -> None:
    """Compile, or load, those that find tensors in memory."""
    with _LOADING:
        _one_process_at_a_time(kernels.compile_finding)


def _one_process_at_a_time(compile_some: Callable[[], None]) -> None:
    """Of two that compile for different types at once (a sweep over the precision, on a new
    machine), numba's index would keep one's entry with the other's code, and every later process
    would fail."""
    folder = kernels.cache_folder()
    with contextlib.ExitStack() as stack:
        if folder is not None:
            with contextlib.suppress(OSError):  # also Timeout: rather twice than never
                os.makedirs(folder, exist_ok=True)
                stack.enter_context(
                    FileLock(os.path.join(folder, "isometry.lock"), timeout=COMPILE_SECONDS)
                )
        compile_some()


def load_early(device: torch.device) -> None:
    """Begin to load the compiled loops, in a thread: a third of a second, which passes while others
    wait (for W&B, say).
    """
    if DESCRIBE and seen_at_once(device):
        threading.Thread(target=_load_what_most_use).start()


def _load_what_most_use() -> None:
    _ready_to_find()
    _ready(torch.float32)


class Memory(NamedTuple):
    """Where tensors lie: their addresses and sizes, and an empty array of their type."""

    addresses: NDArray[np.int64]
    sizes: NDArray[np.int64]
    like: NDArray[np.floating[Any]]

    def part(self, start: int, stop: int) -> Memory:
        """Of some of the tensors."""
        return Memory(self.addresses[start:stop], self.sizes[start:stop], self.like)


def memory(tensors: Sequence[Tensor], signed: bool = True) -> Memory | None:
    """Where tensors lie; None unless all are contiguous, of one type (float32 or float64), and
    nothing but memory.

    Where signs do not matter (`signed=False`) that includes views whose memory holds the negative.
    """
    if not DESCRIBE:
        return None
    _ready_to_find()
    every = list(tensors)
    table = np.empty((2, len(tensors)), np.int64)
    dtype = _BITS.get(kernels.find(ASK, id(every), table))
    if dtype is None or (signed and any(map(Tensor.is_neg, every))):  # not in DLPack's description
        return None
    return Memory(table[0], table[1], _ready(dtype))


class Place(NamedTuple):
    """Where numbers go: a row (or rows) of the buffer, and its address."""

    row: NDArray[np.float64]
    address: int


class NativeReductions(Reductions):
    """Reductions on the CPU; what does not simply lie in memory (bfloat16, other layouts,
    subclasses) is left to torch.
    """

    def __init__(self, device: torch.device):
        super().__init__(device)
        _ready_to_find()

    def _memory(self, tensors: Sequence[Tensor], signed: bool = True) -> Memory | None:
        if not isinstance(tensors, Fixed):
            return memory(tensors, signed)
        if not tensors.place:
            tensors.place = (memory(tensors),)
        return tensors.place[0]  # type: ignore[no-any-return]

    def copy(
        self, tensors: Sequence[Tensor], origin: Sequence[Tensor], into: Sequence[Tensor]
    ) -> Tensor:
        at = self._memory(tensors)
        before = self._memory(origin)
        to = self._memory(into)
        if at is None or before is None or to is None or not (at.like is before.like is to.like):
            return super().copy(tensors, origin, into)
        out = np.empty((2, len(tensors)))
        kernels.copy(at.addresses, before.addresses, to.addresses, at.sizes, at.like, out)
        return torch.from_numpy(out)

    def norms(self, tensors: Sequence[Tensor]) -> Tensor:
        return self.watch(tensors)[0]

    def watch(self, tensors: Sequence[Tensor]) -> tuple[Tensor, bool]:
        every = list(tensors)
        out = np.empty(len(tensors))
        total = kernels.norms(ASK, id(every), out)
        if total < 0.0:
            found = super().norms(tensors)
            return found, known_finite(found)
        return torch.from_numpy(out), math.isfinite(total)

    def screen(self, tensors: list[Tensor | None], others: list[Tensor], into: Place) -> bool:
        # -1 for what cannot be located, None among it
        return 0.0 <= kernels.rough_norms(ASK, id(tensors), id(others), into.address) < math.inf  # type: ignore[no-any-return]

    def distances(self, tensors: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
        at = self._memory(tensors)
        other = self._memory(others)
        if at is None or other is None or at.like is not other.like:
            return super().distances(tensors, others)
        out = np.empty(len(tensors))
        kernels.distances(at.addresses, other.addresses, at.sizes, at.like, out)
        return torch.from_numpy(out)

    def example_squares(self, tensors: Sequence[Tensor]) -> Tensor:
        at = self._memory(tensors)
        if at is None:
            return super().example_squares(tensors)
        out = np.empty((len(tensors), len(tensors[0])))
        kernels.example_squares(*at, out)
        return torch.from_numpy(out)

    def outer_products(self, tensors: Sequence[Tensor], others: Tensor) -> Tensor:
        at = self._memory(tensors)
        if at is None:
            return super().outer_products(tensors, others)
        out = np.empty((2, len(tensors)))
        kernels.outer_products(*at, others.numpy(), out)
        return torch.from_numpy(out)

    def preactivations(self, tensors: Sequence[Tensor], intervals: Saturated) -> Tensor:
        at = self._memory(tensors)
        if at is None:
            return super().preactivations(tensors, intervals)
        out = np.empty((3, len(tensors)))
        _preactivations(at, tuple(intervals), out)
        return torch.from_numpy(out)

    def activations(
        self, tensors: Sequence[Tensor], widths: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        at = self._memory(tensors)
        if at is None:
            return super().activations(tensors, widths)
        out = np.empty((2, len(tensors)))
        return torch.from_numpy(out), *_activations(at, widths, len(tensors[0]), out)

    def forward(
        self, h: Sequence[Tensor], inside: Saturated, a: Sequence[Tensor], widths: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        at = self._memory([*h, *a])
        if at is None:
            return super().forward(h, inside, a, widths)
        out = np.empty((5, len(h)))
        _preactivations(at.part(0, len(h)), tuple(inside), out[:3])
        return torch.from_numpy(out), *_activations(
            at.part(len(h), 2 * len(h)), widths, len(a[0]), out[3:]
        )

    def layer_by_layer(
        self, examples: int, inside: Saturated, widths: tuple[int, ...], places: Sequence[int] = ()
    ) -> LayerByLayer | None:
        return LayerByLayer(examples, _starts(widths), *_bounds(tuple(inside)), frozenset(places))

    def shares(self, alive: Tensor, widths: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(np.add.reduceat(alive.numpy(), _starts(widths)[:-1]) / widths)

    # in numpy, which copies a row of numbers without torch's dispatcher

    def places(self, rows: Tensor) -> list[Place]:
        return [Place(row, row.ctypes.data) for row in rows.numpy()]

    def place(self, values: Tensor, into: Place) -> None:
        # a loss may be bfloat16, which numpy does not know
        into.row[...] = values.item() if values.dim() == 0 else values.double().numpy()

    def place_rows(self, blocks: Sequence[Tensor], into: Place) -> None:
        # a view: the rows lie together
        np.concatenate([block.numpy().ravel() for block in blocks], out=into.row.ravel())

    def replace(self, rows: Tensor, at: Sequence[int], by: Tensor) -> None:
        if len(at):
            rows.numpy()[at] = by.numpy()


def _preactivations(
    at: Memory, intervals: tuple[Intervals | None, ...], out: NDArray[np.float64]
) -> None:
    low, high = _bounds(intervals)
    kernels.preactivations(at.addresses, at.sizes, low, high, at.like, out)


def _activations(
    at: Memory, widths: tuple[int, ...], examples: int, out: NDArray[np.float64]
) -> tuple[Tensor, Tensor]:
    """Moments to `out`; the living units, and the squares behind a row of NaN."""
    starts = _starts(widths)
    alive = np.empty(starts[-1])
    squares = np.empty((1 + len(widths), examples))
    squares[0] = math.nan
    kernels.activations(*at, starts, out, alive, squares[1:])
    return torch.from_numpy(alive), torch.from_numpy(squares)


@functools.lru_cache(maxsize=64)
def _starts(widths: tuple[int, ...]) -> NDArray[np.int64]:
    """Where the units of each tensor start in those of all, and, at the end, their number."""
    return np.cumsum([0, *widths])


@functools.lru_cache(maxsize=64)
def _bounds(
    intervals: tuple[Intervals | None, ...],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper ends [tensors, most intervals of one, ≥ 1]; unused ones hold nothing, and
    those of None start at NaN.
    """
    width = max([1, *(len(inside or ()) for inside in intervals)])
    low = np.full((len(intervals), width), math.inf)
    high = np.full((len(intervals), width), -math.inf)
    for k, inside in enumerate(intervals):
        for i, ends in enumerate(((math.nan, math.nan),) if inside is None else inside):
            low[k, i], high[k, i] = ends
    return low, high
