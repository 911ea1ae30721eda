"""Compiled loops over the tensors of all layers, for the CPU: one call reads every tensor where it
lies, in float64.

On small networks a kernel of torch for each layer and statistic costs more than its arithmetic, and
torch's reductions of float32 into float64 are several times slower than those of one type. A loop
that numba compiles has neither cost: 30 norms of 100 x 100 in 0.03 ms against 0.22 for
`torch._foreach_norm` in float64 (docs/benchmarks.md).

Tensors come as addresses (`find`), of contiguous memory of one type, which the empty array `like`
names. Sums may be taken in any order; non-finite numbers are what they are in IEEE arithmetic.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from isometry.signals.dlpack import ASK, CPU, DL_TENSOR, FLOAT, described, entry, length, pointer

Addresses = NDArray[np.int64]
Sizes = NDArray[np.int64]
Numbers = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]
Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function, nogil: bool = True) -> Function:
    """Compile at the first call; the machine code is kept in `__pycache__` or in the user's cache,
    whichever can be written.
    """
    options: dict[str, Any] = {
        "fastmath": {"reassoc", "contract"},
        "error_model": "numpy",
        "nogil": nogil,
    }
    try:
        result: Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep it in
        result = numba.njit(**options)(function)
    return result


asking_torch = functools.partial(compiled, nogil=False)
"""For those that call torch, which wants Python's lock held."""


@compiled
def locate(ask: int, tensor: int, spare: NDArray[np.void]) -> tuple[int, int, int]:
    """Address, size and bits a number of a tensor; 0 bits unless it is contiguous float32 or
    float64 in the CPU's memory, and nothing but memory.

    Args:
        ask: where `dlpack.TORCH` lies.
        tensor: the Python object's address, its `id`.
        spare: one DLTensor.
    """
    describe, type_at, plain, parameter = numba.carray(pointer(ask), (4,), np.int64)
    kind = numba.carray(pointer(tensor + type_at), (1,), np.int64)[0]
    if (
        describe == 0
        or (kind != plain and kind != parameter)
        or not described(describe, tensor, spare.ctypes.data)
    ):
        return 0, 0, 0  # a sparse tensor, for one, lies nowhere
    found = spare[0]
    size = 1
    contiguous = True
    shape = numba.carray(pointer(found.shape), (found.dimensions,), np.int64)
    strides = numba.carray(pointer(found.strides), (found.dimensions,), np.int64)
    for i in range(found.dimensions - 1, -1, -1):
        contiguous &= strides[i] == size or shape[i] == 1
        size *= shape[i]
    known = (
        found.device == CPU
        and found.code == FLOAT
        and (found.bits == 32 or found.bits == 64)
        and found.lanes == 1
    )
    return found.data + found.offset, size, found.bits if known and (contiguous or size == 0) else 0


@asking_torch
def find(ask: int, tensors: int, table: Addresses) -> int:
    """`locate` all tensors; returns the bits of the numbers of each, 0 where that is not the same
    for all.

    Args:
        ask: see `locate`.
        tensors: the address of a Python list.
        table: [2, tensors], for their addresses and their sizes.
    """
    spare = np.empty(1, DL_TENSOR)
    bits = 0
    for k in range(table.shape[1]):
        table[0, k], table[1, k], own = locate(ask, entry(tensors, k), spare)
        if own == 0 or (k > 0 and own != bits):
            return 0
        bits = own
    return bits


@compiled
def array(address: int, size: int, like: Floats) -> Floats:
    view: Floats = numba.carray(pointer(address), (size,), like.dtype)
    return view


@compiled
def sum_of_squares(x: Floats) -> float:
    total = 0.0
    for i in range(len(x)):
        value = np.float64(x[i])
        total += value * value
    return total


BLOCK = 4096
"""Entries whose squares are added up in the numbers' own precision."""

TRUSTED = (1e-25, 1e35)
"""Sums of squares in float32 between which squares too small or too large for float32 play no part:
below and above they are taken again."""


@compiled
def sum_of_four(x: Floats, y: Floats, z: Floats, w: Floats) -> float:
    """Σ x² + Σ y² + Σ z² + Σ w² of arrays of one length, each sum in the precision of the numbers
    themselves.
    """
    a: Any = x.dtype.type(0)
    b = a
    c = a
    d = a
    for i in range(len(x)):
        a += x[i] * x[i]
        b += y[i] * y[i]
        c += z[i] * z[i]
        d += w[i] * w[i]
    return np.float64(a) + np.float64(b) + np.float64(c) + np.float64(d)  # type: ignore[no-any-return]


@compiled
def rough_sum_of_squares(x: Floats) -> float:
    """To the precision of the numbers themselves, over the same range.

    The four quarters at once: what the cache does not hold arrives sooner from four places than
    from one (in 0.8 of the time).
    """
    each = len(x) // 4
    a = x[:each]
    b = x[each : 2 * each]
    c = x[2 * each : 3 * each]
    d = x[3 * each : 4 * each]
    total = sum_of_squares(x[4 * each :])
    for start in range(0, each, BLOCK):
        stop = start + BLOCK
        total += sum_of_four(a[start:stop], b[start:stop], c[start:stop], d[start:stop])
    return total if TRUSTED[0] < total < TRUSTED[1] else sum_of_squares(x)


@compiled
def norm(ask: int, tensor: int, spare: NDArray[np.void], rough: bool) -> float:
    """√Σ x² of a tensor of either type, maybe to the precision of its own numbers only; -1 if it
    cannot be located.
    """
    address, size, bits = locate(ask, tensor, spare)
    if bits == 32:
        single = numba.carray(pointer(address), (size,), np.float32)
        return math.sqrt(rough_sum_of_squares(single) if rough else sum_of_squares(single))
    if bits == 64:
        double = numba.carray(pointer(address), (size,), np.float64)
        return math.sqrt(rough_sum_of_squares(double) if rough else sum_of_squares(double))
    return -1.0


@asking_torch
def norms(ask: int, tensors: int, out: Numbers) -> float:
    """`norm` of all tensors of a Python list, by its address; returns their sum, -1 if one cannot
    be located.
    """
    total = 0.0
    spare = np.empty(1, DL_TENSOR)
    for k in range(len(out)):
        out[k] = norm(ask, entry(tensors, k), spare, False)
        if out[k] < 0.0:
            return -1.0
        total += out[k]
    return total


@asking_torch
def rough_norms(ask: int, tensors: int, others: int, out: int) -> float:
    """Rough norms of all tensors of two Python lists; returns their sum, -1 if one cannot be
    located.

    All comes as addresses, and the lists as they are: between two steps of a training, when the
    cache holds none of that code, the conversions in Python took as long as reading the tensors.

    Args:
        ask: see `locate`.
        tensors: the address of a list.
        others: of another.
        out: where float64 numbers lie, for the norms of the first list's tensors.
    """
    total = 0.0
    spare = np.empty(1, DL_TENSOR)
    count = length(tensors)
    norms: Numbers = numba.carray(pointer(out), (count,), np.float64)
    for k in range(count + length(others)):
        found = norm(ask, entry(tensors, k) if k < count else entry(others, k - count), spare, True)
        if found < 0.0:
            return -1.0
        if k < count:
            norms[k] = found
        total += found
    return total


@compiled
def squared_distance(x: Floats, y: Floats) -> float:
    """The differences in the numbers' own precision, where they are what happened."""
    total = 0.0
    for i in range(len(x)):
        difference = np.float64(x[i] - y[i])
        total += difference * difference
    return total


@compiled
def distances(left: Addresses, right: Addresses, sizes: Sizes, like: Floats, out: Numbers) -> None:
    """√Σ (x - y)² of each pair."""
    for k in range(len(left)):
        out[k] = math.sqrt(
            squared_distance(array(left[k], sizes[k], like), array(right[k], sizes[k], like))
        )


@compiled
def copy(
    addresses: Addresses,
    origin: Addresses,
    into: Addresses,
    sizes: Sizes,
    like: Floats,
    out: Numbers,
) -> None:
    """Copies each tensor; its norm, and its distance from `origin`, out [2, tensors]. All in one
    pass: weights of many layers come from far away in memory."""
    for k in range(len(addresses)):
        x = array(addresses[k], sizes[k], like)
        y = array(into[k], sizes[k], like)
        start = array(origin[k], sizes[k], like)
        square = 0.0
        distance = 0.0
        for i in range(len(x)):
            y[i] = x[i]
            value = np.float64(x[i])
            difference = np.float64(x[i] - start[i])
            square += value * value
            distance += difference * difference
        out[0, k] = math.sqrt(square)
        out[1, k] = math.sqrt(distance)


@compiled
def squares_of_examples(x: Floats, out: Numbers) -> None:
    """Σ x² of each example of a batch."""
    each = len(x) // len(out)
    for b in range(len(out)):
        out[b] = sum_of_squares(x[b * each : (b + 1) * each])


@compiled
def example_squares(addresses: Addresses, sizes: Sizes, like: Floats, out: Numbers) -> None:
    """Σ x² of each example of each batch; `sizes` are those of the batches, out [tensors,
    examples].
    """
    for k in range(len(addresses)):
        squares_of_examples(array(addresses[k], sizes[k], like), out[k])


@compiled
def mean_and_variance(x: Floats) -> tuple[float, float]:
    """Shifted by the first entry before squaring: a mean far from 0 (sigmoid: 0.5 ± 1e-6) costs no
    digits.
    """
    if len(x) == 0:
        return np.nan, np.nan
    shift = np.float64(x[0])
    total = 0.0
    square = 0.0
    for i in range(len(x)):
        value = np.float64(x[i]) - shift
        total += value
        square += value * value
    mean = total / len(x)
    variance = square / len(x) - mean * mean
    return shift + mean, 0.0 if variance < 0.0 else variance


CANCELLED = 1e-3
"""A variance this small next to the squared mean has lost three digits in E x² - (E x)², and is
taken again, shifted.
"""


@compiled
def variance_of_sums(x: Floats, total: float, square: float) -> tuple[float, float]:
    """Mean and variance from Σ x and Σ x²."""
    mean = total / len(x)
    variance = square / len(x) - mean * mean
    return (mean, variance) if variance > CANCELLED * mean * mean else mean_and_variance(x)


@compiled
def sums(x: Floats) -> tuple[float, float]:
    """Σ x and Σ x²."""
    total = 0.0
    square = 0.0
    for i in range(len(x)):
        value = np.float64(x[i])
        total += value
        square += value * value
    return total, square


@compiled
def sums_and_share(x: Floats, low: float, high: float) -> tuple[float, float, float]:
    """Σ x, Σ x² and the share of entries in a closed interval."""
    # counted in the type of the sums: fewer conversions
    total = 0.0
    square = 0.0
    inside = 0.0
    for i in range(len(x)):
        value = np.float64(x[i])
        total += value
        square += value * value
        inside += 1.0 if value >= low and value <= high else 0.0
    return total, square, inside / len(x)


@compiled
def share_between(x: Floats, low: float, high: float) -> float:
    inside = 0
    for i in range(len(x)):
        inside += (x[i] >= low) & (x[i] <= high)
    return inside / len(x)


@compiled
def preactivation(x: Floats, low: Numbers, high: Numbers) -> tuple[float, float, float]:
    """Mean, variance, and the share of entries in closed intervals low..high; NaN for intervals
    that start at NaN.
    """
    total, square, share = sums_and_share(x, low[0], high[0])
    mean, variance = variance_of_sums(x, total, square)
    for interval in range(1, len(low)):
        share += share_between(x, low[interval], high[interval])
    return mean, variance, math.nan if math.isnan(low[0]) else share


@compiled
def preactivations(
    addresses: Addresses, sizes: Sizes, low: Numbers, high: Numbers, like: Floats, out: Numbers
) -> None:
    """`preactivation` of each; the intervals [tensors, ≥ 1], out [3, tensors]."""
    for k in range(len(addresses)):
        out[0, k], out[1, k], out[2, k] = preactivation(
            array(addresses[k], sizes[k], like), low[k], high[k]
        )


@compiled
def add_sizes(x: Floats, total: Floats) -> None:
    """Σ |x| of each unit, added to `total` [units], of one example [units, positions]: 0 exactly
    where all is 0.
    """
    positions = len(x) // len(total)
    if positions == 1:
        for unit in range(len(total)):
            total[unit] += abs(x[unit])
    else:
        for unit in range(len(total)):
            for i in range(unit * positions, (unit + 1) * positions):
                total[unit] += abs(x[i])


GLANCE = 16
"""Examples after which to look whether all units have been found alive."""


@compiled
def find_alive(x: Floats, examples: int, alive: Numbers) -> None:
    """Sets `alive` [units] to 1 for each unit that is not 0 somewhere in a batch, else to 0; where
    some are dead it takes all examples to know."""
    each = len(x) // examples
    sizes = np.zeros(len(alive), x.dtype)
    for start in range(0, examples, GLANCE):
        for b in range(start, min(start + GLANCE, examples)):
            add_sizes(x[b * each : (b + 1) * each], sizes)
        living = 0
        for unit in range(len(alive)):
            living += sizes[unit] != 0
        if living == len(alive):
            break
    for unit in range(len(alive)):
        alive[unit] = sizes[unit] != 0


@compiled
def activation(x: Floats, alive: Numbers, squares: Numbers) -> tuple[float, float]:
    """Mean and variance; sets the living units, and Σ x² of each example."""
    examples = len(squares)
    total = 0.0
    square = 0.0
    each = len(x) // examples
    for b in range(examples):
        of_example, squares[b] = sums(x[b * each : (b + 1) * each])
        total = total + of_example
        square = square + squares[b]
    find_alive(x, examples, alive)
    return variance_of_sums(x, total, square)


@compiled
def activations(
    addresses: Addresses,
    sizes: Sizes,
    like: Floats,
    starts: Sizes,
    out: Numbers,
    alive: Numbers,
    squares: Numbers,
) -> None:
    """`activation` of each: out [2, tensors]; the living units, those of tensor k from starts[k] to
    starts[k + 1]; and Σ x² of each example, [tensors, examples]."""
    for k in range(len(addresses)):
        x = array(addresses[k], sizes[k], like)
        units = alive[starts[k] : starts[k + 1]]
        out[0, k], out[1, k] = activation(x, units, squares[k])


# ---- one layer at a time -------------------------------------------------------------------------

ARRAYS = (
    "starts",
    "low",
    "high",
    "forward",
    "alive",
    "living",
    "squares",
    "inputs",
    "others",
    "deltas",
    "products",
    "came",
)
ROOM = np.dtype([(name, np.int64) for name in ("layers", "examples", "intervals", *ARRAYS)])
"""Where the statistics of one micro-batch go: numbers, and the addresses of arrays, see
`layer_by_layer`.
"""


@compiled
def shaped(spare: NDArray[np.void], examples: int, units: int) -> bool:
    """Whether the tensor that was located last is [examples, units, ...]."""
    found = spare[0]
    if found.dimensions < 2:
        return False
    shape = numba.carray(pointer(found.shape), (2,), np.int64)
    return shape[0] == examples and shape[1] == units  # type: ignore[no-any-return]


@compiled
def enter(room: Any, k: int, h: Floats, a: Floats) -> None:
    """`preactivation` and `activation` of layer k, to their places."""
    starts = numba.carray(pointer(room.starts), (room.layers + 1,), np.int64)
    low = numba.carray(pointer(room.low), (room.layers, room.intervals), np.float64)
    high = numba.carray(pointer(room.high), (room.layers, room.intervals), np.float64)
    out = numba.carray(pointer(room.forward), (5, room.layers), np.float64)
    alive = numba.carray(pointer(room.alive), (starts[room.layers],), np.float64)
    squares = numba.carray(pointer(room.squares), (1 + room.layers, room.examples), np.float64)
    out[0, k], out[1, k], out[2, k] = preactivation(h, low[k], high[k])
    units = alive[starts[k] : starts[k + 1]]
    out[3, k], out[4, k] = activation(a, units, squares[1 + k])
    numba.carray(pointer(room.living), (room.layers,), np.float64)[k] = units.mean()


@asking_torch
def see(ask: int, at: int, k: int, h: int, a: int) -> bool:
    """The forward statistics of layer k; whether its tensors could be located, and have the shape
    that was announced.

    Args:
        ask: see `locate`.
        at: where a `ROOM` lies.
        k: layer, from 0.
        h, a: addresses of the objects: preactivation and activation, of one type.
    """
    room = numba.carray(pointer(at), (1,), ROOM)[0]
    starts = numba.carray(pointer(room.starts), (room.layers + 1,), np.int64)
    spare = np.empty(1, DL_TENSOR)
    units = starts[k + 1] - starts[k]
    h_at, h_size, h_bits = locate(ask, h, spare)
    if h_bits == 0 or not shaped(spare, room.examples, units):
        return False
    a_at, a_size, a_bits = locate(ask, a, spare)
    if a_bits != h_bits or not shaped(spare, room.examples, units):
        return False
    if h_bits == 32:
        enter(
            room,
            k,
            numba.carray(pointer(h_at), (h_size,), np.float32),
            numba.carray(pointer(a_at), (a_size,), np.float32),
        )
    else:
        enter(
            room,
            k,
            numba.carray(pointer(h_at), (h_size,), np.float64),
            numba.carray(pointer(a_at), (a_size,), np.float64),
        )
    return True


@asking_torch
def see_input(ask: int, at: int, k: int, x: int) -> bool:
    """‖x_i‖² of the input of layer k, where that is not the activation of the layer below; whether
    it could be located. Arguments as in `see`."""
    room = numba.carray(pointer(at), (1,), ROOM)[0]
    spare = np.empty(1, DL_TENSOR)
    address, size, bits = locate(ask, x, spare)
    if (
        bits == 0
        or spare[0].dimensions < 1
        or numba.carray(pointer(spare[0].shape), (1,), np.int64)[0] != room.examples
    ):
        return False
    out = numba.carray(pointer(room.inputs), (room.layers, room.examples), np.float64)[k]
    if bits == 32:
        squares_of_examples(numba.carray(pointer(address), (size,), np.float32), out)
    else:
        squares_of_examples(numba.carray(pointer(address), (size,), np.float64), out)
    return True


@compiled
def outer_product(x: Floats, others: Numbers, squares: Numbers) -> tuple[float, float]:
    """Σ_i ‖δ_i‖² and Σ_i ‖δ_i‖² `others`_i of a batch of δ; sets ‖δ_i‖²."""
    total = 0.0
    product = 0.0
    squares_of_examples(x, squares)
    for b in range(len(others)):
        total += squares[b]
        product += squares[b] * others[b]
    return total, product


@compiled
def outer_products(
    addresses: Addresses, sizes: Sizes, like: Floats, others: Numbers, out: Numbers
) -> None:
    """`outer_product` of each batch of δ; others [tensors, examples], out [2, tensors]."""
    squares = np.empty(others.shape[1])
    for k in range(len(addresses)):
        out[0, k], out[1, k] = outer_product(
            array(addresses[k], sizes[k], like), others[k], squares
        )


@asking_torch
def see_delta(ask: int, at: int, k: int, delta: int) -> bool:
    """`outer_product` of δ of layer k with the squared inputs; whether it could be located.
    Arguments as in `see`.
    """
    room = numba.carray(pointer(at), (1,), ROOM)[0]
    spare = np.empty(1, DL_TENSOR)
    address, size, bits = locate(ask, delta, spare)
    starts = numba.carray(pointer(room.starts), (room.layers + 1,), np.int64)
    if bits == 0 or not shaped(spare, room.examples, starts[k + 1] - starts[k]):
        return False
    others = numba.carray(pointer(room.others), (room.layers, room.examples), np.float64)[k]
    squares = numba.carray(pointer(room.deltas), (room.layers, room.examples), np.float64)[k]
    out = numba.carray(pointer(room.products), (2, room.layers), np.float64)
    if bits == 32:
        out[0, k], out[1, k] = outer_product(
            numba.carray(pointer(address), (size,), np.float32), others, squares
        )
    else:
        out[0, k], out[1, k] = outer_product(
            numba.carray(pointer(address), (size,), np.float64), others, squares
        )
    numba.carray(pointer(room.came), (room.layers,), np.float64)[k] = 1.0
    return True


def compile_finding() -> None:
    """Compile those that take tensors of any type, or load them where that has been done before;
    all with no tensors.
    """
    nothing: list[object] = []
    find(0, id(nothing), np.empty((2, 0), np.int64))
    norms(0, id(nothing), np.empty(0))
    rough_norms(0, id(nothing), id(nothing), 0)
    room = np.zeros(1, ROOM)
    start = np.zeros(2, np.int64)
    room["starts"] = start.ctypes.data
    see(ASK, room.ctypes.data, 0, id(None), id(None))  # None is no tensor: nothing is written
    see_input(ASK, room.ctypes.data, 0, id(None))
    see_delta(ASK, room.ctypes.data, 0, id(None))


def compile_all(like: Floats) -> None:
    """Compile, or load, those that take tensors of one type; all with no tensors."""
    none = np.empty(0, np.int64)
    table = np.empty((0, 1))
    distances(none, none, none, like, table[:, 0])
    copy(none, none, none, none, like, np.empty((2, 0)))
    example_squares(none, none, like, table)
    outer_products(none, none, like, table, np.empty((2, 0)))
    preactivations(none, none, table, table, like, np.empty((3, 0)))
    activations(none, none, like, np.zeros(1, np.int64), np.empty((2, 0)), np.empty(0), table)


def cache_folder() -> str | None:
    """Where the machine code is kept; None if nowhere."""
    folder: str | None = norms.stats.cache_path  # type: ignore[attr-defined]
    return folder
