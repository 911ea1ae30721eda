"""Compiled loops over plain CPU memory, behind the functions of `statistics` and `norms`.

On the CPU an operation of torch on a small tensor costs what asking for it does, and a statistic is
several of them. A loop that numba compiles reads every number once and sums in float64. Sums are
taken in any order; numbers that are not finite are what they are in IEEE arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Numbers = NDArray[np.floating[Any]]
Float64 = NDArray[np.float64]
Function = TypeVar("Function", bound=Callable[..., Any])

PLAIN = (Tensor, nn.Parameter)
"""Tensors that are nothing but memory: no shards, no fakes."""


def numbers_of(tensor: Tensor) -> Numbers | None:
    """The numbers of a float32 or float64 tensor in the CPU's memory, in its shape; None of others.
    No copy where they lie row by row already.
    """
    if type(tensor) not in PLAIN or not tensor.is_cpu or tensor.layout is not torch.strided:
        return None
    if tensor.dtype is not torch.float32 and tensor.dtype is not torch.float64:
        return None
    numbers: Numbers = tensor.contiguous().numpy(force=True)
    return numbers


def compiled(function: Function) -> Function:
    """Compile at the first call; the machine code is kept in `__pycache__` or in the user's cache,
    whichever can be written.
    """
    options: dict[str, Any] = {"fastmath": {"reassoc", "contract"}, "nogil": True}
    try:
        result: Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep it in
        result = numba.njit(**options)(function)
    return result


@compiled
def shifted_sums(x: Numbers) -> Float64:
    """The first entry; the sums of the differences from it and of their squares."""
    first = np.float64(x[0])
    total = 0.0
    squares = 0.0
    for i in range(x.size):
        shifted = np.float64(x[i]) - first
        total += shifted
        squares += shifted * shifted
    return np.array([first, total, squares])


@compiled
def norm(x: Numbers) -> float:
    """√(Σ x²)."""
    squares = 0.0
    for i in range(x.size):
        value = np.float64(x[i])
        squares += value * value
    return math.sqrt(squares)


@compiled
def distance(x: Numbers, y: Numbers) -> float:
    """√(Σ (x - y)²), the differences in the numbers' own precision."""
    squares = 0.0
    for i in range(x.size):
        value = np.float64(x[i] - y[i])
        squares += value * value
    return math.sqrt(squares)


@compiled
def keep(x: Numbers, kept: Numbers, first: Numbers) -> tuple[float, float]:
    """Copy x to `kept`; `norm` of x and its `distance` from `first`, in the same pass."""
    squares = 0.0
    moved = 0.0
    for i in range(x.size):
        kept[i] = x[i]
        value = np.float64(x[i])
        squares += value * value
        value = np.float64(x[i] - first[i])
        moved += value * value
    return math.sqrt(squares), math.sqrt(moved)


@compiled
def row_norms(x: Numbers) -> Float64:
    """√(Σ_j x_ij²) of each row of a matrix."""
    norms = np.empty(len(x))
    for i in range(len(x)):
        squares = 0.0
        for j in range(x.shape[1]):
            value = np.float64(x[i, j])
            squares += value * value
        norms[i] = math.sqrt(squares)
    return norms


@compiled
def count_inside(x: Numbers, low: float, high: float) -> int:
    """How many entries lie in a closed interval."""
    count = 0
    for i in range(x.size):
        count += (x[i] >= low) & (x[i] <= high)
    return count


@compiled
def any_nonzero(x: Numbers) -> NDArray[np.bool_]:
    """Of each column of a matrix, whether some entry is not 0 (NaN is not)."""
    found = np.zeros(x.shape[1], np.bool_)
    for i in range(len(x)):
        for j in range(x.shape[1]):
            found[j] |= x[i, j] != 0
    return found
