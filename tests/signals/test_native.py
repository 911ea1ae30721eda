"""The compiled loops against torch in float64, and what is left to torch."""

import functools
import math
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from isometry.signals import dlpack, kernels, native
from isometry.signals.native import NativeReductions, memory, reductions
from isometry.signals.reductions import Fixed, Reductions

CPU = torch.device("cpu")
INSIDE = [((-math.inf, -0.5), (0.7, math.inf)), None, ((-0.2, 0.1),), ()]


def batches(dtype=torch.float32, shapes=((8, 5), (8, 9), (8, 3, 4, 4), (8, 1))):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def both(method, *arguments):
    """A reduction by the compiled loops and by torch."""
    return [getattr(kind(CPU), method)(*arguments) for kind in (NativeReductions, Reductions)]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-300, equal_nan=True)


@pytest.fixture
def loops_only(monkeypatch):
    """Any use of torch's form is an error."""
    for name in (
        "norms",
        "distances",
        "copy",
        "example_squares",
        "outer_products",
        "preactivations",
        "activations",
        "shares",
    ):
        monkeypatch.setattr(
            Reductions,
            name,
            lambda self, *args, name=name: pytest.fail(f"{name} was left to torch"),
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loops_are_used_for_what_lies_in_memory(dtype, loops_only):
    at = reductions(CPU)
    tensors = batches(dtype)
    at.norms(tensors)
    at.distances(tensors, tensors)
    at.copy(tensors, tensors, [torch.empty_like(x) for x in tensors])
    at.example_squares(tensors)
    at.preactivations(tensors, INSIDE)
    _, alive, squares = at.activations(tensors, (5, 9, 3, 1))
    at.shares(alive, (5, 9, 3, 1))
    at.outer_products(tensors, squares[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_reduction_is_that_of_torch(dtype):
    tensors = batches(dtype)
    others = [x.flip(0) * 3 for x in batches(dtype)]
    assert_same(*([pair] for pair in both("norms", tensors)))
    assert_same(*([pair] for pair in both("distances", tensors, others)))
    assert_same(*([pair] for pair in both("example_squares", tensors)))
    assert_same(*([pair] for pair in both("preactivations", tensors, INSIDE)))
    weights = torch.rand(len(tensors), len(tensors[0]), dtype=torch.float64)
    assert_same(*([pair] for pair in both("outer_products", tensors, weights)))
    tensors[0][:, 2] = 0
    tensors[2][:, 1] = 0
    tensors[2][3, 1, 2, 2] = 1e-30
    found, expected = both("activations", tensors, (5, 9, 3, 1))
    assert_same(found, expected)
    assert_same(*([pair] for pair in both("shares", expected[1], (5, 9, 3, 1))))


def test_shares_without_intervals_are_no_number_or_zero():
    share = NativeReductions(CPU).preactivations(batches(), INSIDE)[2]
    assert math.isnan(share[1])
    assert share[3] == 0


def test_copy_copies_and_measures_on_the_way():
    tensors = Fixed(batches())
    origin = Fixed(x + 1 for x in batches())
    into = Fixed(torch.zeros_like(x) for x in tensors)
    norms, distances = NativeReductions(CPU).copy(tensors, origin, into)
    for x, y in zip(tensors, into, strict=True):
        assert torch.equal(x, y)
    torch.testing.assert_close(
        norms, torch.stack([x.double().norm() for x in tensors]), rtol=1e-13, atol=0
    )
    expected = torch.stack([(x - y).double().norm() for x, y in zip(tensors, origin, strict=True)])
    torch.testing.assert_close(distances, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("magnitude", [1e-44, 1e-30, 1.0, 1e25, 1e38])
def test_squares_are_taken_in_float64(magnitude):
    tensor = torch.full((30, 40), magnitude)
    exact = float(tensor[0, 0].double()) * math.sqrt(1200)
    assert NativeReductions(CPU).norms([tensor]).item() == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("magnitude", [0.0, 1e-44, 1e-30, 1e-13, 1.0, 1e17, 1e25, 1e38])
@pytest.mark.parametrize("entries", [1, 1000, 10_000, 4 * 2 * kernels.BLOCK + 7])
def test_screening_rounds_norms_but_keeps_the_range(magnitude, entries):
    """Up to 4096 squares are added in float32: the relative error of a sum is below 4096 · 2⁻²⁴ =
    2.4e-4, of its root half.
    """
    x = torch.full((entries,), magnitude) * (
        1 + torch.rand(entries, generator=torch.Generator().manual_seed(0))
    )
    out = torch.zeros(1, 1, dtype=torch.float64)
    (place,) = NativeReductions(CPU).places(out)
    assert NativeReductions(CPU).screen([x], [], place)
    assert out.item() == pytest.approx(x.double().norm().item(), rel=1.2e-4, abs=0)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("where", ["none", "tensors", "others", "others of another type"])
def test_screening_sees_every_non_finite_number(bad, where):
    at = NativeReductions(CPU)
    tensors = batches()
    others = [torch.tensor(2.0)]
    if where == "tensors":
        tensors[1][3, 3] = bad
    elif where == "others":
        others[0] += bad
    elif where == "others of another type":
        others = [torch.tensor(bad, dtype=torch.float64)]
    found = torch.zeros(1, len(tensors), dtype=torch.float64)
    assert at.screen(tensors, others, at.places(found)[0]) == (where == "none")
    expected = torch.stack([x.double().norm() for x in tensors])
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "there",
    [None, torch.ones(2, 3).to(torch.bfloat16), torch.ones(2, 3).to_sparse(), torch.ones(2, 3).T],
)
def test_screening_vouches_for_nothing_it_cannot_read(there):
    at = NativeReductions(CPU)
    found = torch.zeros(1, 2, dtype=torch.float64)
    (place,) = at.places(found)
    assert at.screen([torch.ones(2), torch.ones(3)], [], place)
    assert not at.screen([torch.ones(2), there], [], place)
    if there is not None:
        assert not at.screen([torch.ones(2), torch.ones(3)], [there], place)


@pytest.mark.parametrize("kind", [NativeReductions, Reductions])
@pytest.mark.parametrize("bad", [1.0, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_watching_sees_every_non_finite_number(kind, bad, dtype):
    tensors = batches(dtype)
    tensors[1][3, 3] = bad
    found, finite = kind(CPU).watch(tensors)
    assert finite == math.isfinite(bad)
    expected = torch.stack([x.double().norm() for x in tensors])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0, equal_nan=True)


def test_elsewhere_nothing_is_screened():
    at = Reductions(CPU)
    found = torch.zeros(1, 4, dtype=torch.float64)
    assert not at.screen(batches(), [], at.places(found)[0])
    assert not found.any()


@pytest.mark.parametrize("entries", [1, 2, 3, 4, 5, 7, 4 * kernels.BLOCK + 9])
def test_screening_reads_every_entry_once(entries):
    """Around the ends of the quarters and of their blocks: an entry alone among zeros is the norm,
    and one that is not finite shows."""
    quarter = entries // 4
    ends = {k * quarter + i for k in range(5) for i in (-1, 0, 1, kernels.BLOCK - 1, kernels.BLOCK)}
    at = NativeReductions(CPU)
    found = torch.zeros(1, 1, dtype=torch.float64)
    for i in sorted(k for k in {*ends, entries - 1} if 0 <= k < entries):
        x = torch.zeros(entries)
        x[i] = 2.0
        assert at.screen([x], [], at.places(found)[0])
        assert found.item() == 2.0
        x[i] = math.inf
        assert not at.screen([x], [], at.places(found)[0])


@pytest.mark.parametrize("kind", [NativeReductions, Reductions])
def test_places_are_rows_of_the_tensor(kind):
    at = kind(CPU)
    rows = torch.zeros(2, 3, 4, dtype=torch.float64)
    above = torch.rand(2, 4, dtype=torch.float64)
    below = torch.rand(4, dtype=torch.float64)
    at.place_rows([above, below], at.places(rows)[1])
    assert torch.equal(rows[1], torch.stack([*above, below]))
    at.place(torch.tensor(2.0), at.places(rows[:, 0])[0])
    assert rows[0].tolist() == [[2.0] * 4, [0.0] * 4, [0.0] * 4]
    at.replace(rows[1], [0, 2], torch.zeros(2, 4, dtype=torch.float64))
    assert torch.equal(rows[1], torch.stack([0 * below, above[1], 0 * below]))
    at.replace(rows[1], [], torch.empty(0, dtype=torch.float64))


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_non_finite_entries_show(bad):
    tensors = batches()
    assert NativeReductions(CPU).watch(tensors)[1]
    tensors[1][3, 3] = bad
    found, finite = NativeReductions(CPU).watch(tensors)
    assert not finite
    assert found.isfinite().tolist() == [True, False, True, True]
    assert not NativeReductions(CPU).preactivations(tensors, INSIDE)[:2, 1].isfinite().any()
    assert NativeReductions(CPU).activations(tensors, (5, 9, 3, 1))[1][5 + 3] == 1  # not dead


@pytest.mark.parametrize(
    "spread", [1e-6, 0.01, 0.02, 0.1]
)  # 0.016: from there on the variance is not taken again, shifted
def test_a_mean_far_from_zero_costs_no_digits(spread):
    x = 0.5 + spread * torch.randn(
        64, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    expected = pytest.approx(
        (x - 0.5).var(correction=0).item(), rel=1e-9 if spread == 1e-6 else 1e-12
    )
    assert NativeReductions(CPU).preactivations([x], [None])[1].item() == expected
    assert NativeReductions(CPU).activations([x], (100,))[0][1].item() == expected


@pytest.mark.parametrize("value", [0.0, 0.5, 2.0**100])
def test_a_constant_has_no_variance(value):
    x = torch.full((8, 5), value)
    mean, variance, share = (
        NativeReductions(CPU).preactivations([x], [((value, value),)])[:, 0].tolist()
    )
    assert (mean, variance, share) == (pytest.approx(value), 0.0, 1.0)


def test_nothing_makes_nothing():
    assert NativeReductions(CPU).norms([]).shape == (0,)
    assert NativeReductions(CPU).watch([])[1]


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize(
    "tensors",
    [
        [torch.randn(4, 6)[:, ::2], torch.randn(4, 3)],
        [torch.randn(4, 3), torch.randn(4, 3, dtype=torch.float64)],
        [torch.randn(4, 3).half()],
        [torch.randn(4, 3).as_subclass(Subclass)],
        [torch.randn(1, 3).expand(4, 3)],
    ],
    ids=["strided", "two types", "half", "subclass", "expanded"],
)
def test_what_does_not_simply_lie_in_memory_is_left_to_torch(tensors):
    assert memory(tensors) is None
    expected = torch.stack([x.as_subclass(torch.Tensor).double().norm() for x in tensors])
    torch.testing.assert_close(
        NativeReductions(CPU).norms(tensors).as_subclass(torch.Tensor), expected, rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("shape", [(), (1,), (3,), (0, 4), (2, 1, 3), (1, 1)])
def test_an_address_is_that_of_torch(shape):
    """Also of a part of a storage; a dimension of one entry may have any stride."""
    whole = torch.randn(2, *shape, dtype=torch.float64)
    at = memory([whole[1], whole[1].squeeze(), nn.Parameter(whole)])
    assert at.addresses.tolist() == [whole[1].data_ptr(), whole[1].data_ptr(), whole.data_ptr()]
    assert at.sizes.tolist() == [math.prod(shape), math.prod(shape), 2 * math.prod(shape)]
    if shape == (2, 1, 3):
        assert memory([torch.randn(3, 1, 2).as_strided((3, 1, 2), (2, 77, 1))]) is not None


def test_a_sparse_tensor_has_no_address_and_leaves_no_exception_behind():
    sparse = torch.eye(3).to_sparse()
    assert memory([sparse]) is None
    (place,) = NativeReductions(CPU).places(torch.zeros(1, 2, dtype=torch.float64))
    tensors = [torch.ones(4), sparse]
    others = [torch.ones(1)]
    assert kernels.rough_norms(dlpack.ASK, id(tensors), id(others), place.address) == -1.0
    assert kernels.rough_norms(dlpack.ASK, id(others), id(tensors), place.address) == -1.0


def test_a_torch_without_the_table_of_functions_reduces_by_itself(monkeypatch):
    monkeypatch.delattr(torch.Tensor, "__dlpack_c_exchange_api__")
    assert dlpack.find_describe() == 0
    monkeypatch.setattr(native, "DESCRIBE", 0)
    assert type(reductions(CPU)) is Reductions
    assert memory(batches()) is None


def test_a_later_version_of_the_table_is_not_read(monkeypatch):
    monkeypatch.setattr(dlpack.Table, "major", 2)
    assert dlpack.find_describe() == 0


def test_fixed_tensors_are_looked_for_once(monkeypatch):
    at = NativeReductions(CPU)
    weights = Fixed(nn.Parameter(x) for x in batches())
    first = at.norms(weights)
    monkeypatch.setattr(native, "memory", lambda tensors: pytest.fail("looked again"))
    with torch.no_grad():
        weights[0].mul_(2)
    assert at.norms(weights)[0] == pytest.approx(2 * first[0])


def test_machine_code_is_kept_where_a_folder_can_be_written(monkeypatch):
    """And compiled in each process where none can."""

    def refuse(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(kernels.numba, "njit", refuse)
    assert kernels.compiled(math.sqrt) is math.sqrt
    monkeypatch.undo()
    assert kernels.norms._cache.cache_path
    out = np.empty(1)
    tensors = [torch.ones(4)]
    assert kernels.norms(dlpack.ASK, id(tensors), out) == out[0] == 2


def test_a_view_whose_memory_holds_the_negative_is_left_to_torch():
    view = torch._neg_view(torch.full((3, 2), 2.0))
    assert memory([view]) is None
    assert reductions(CPU).preactivations([view], [None])[0].tolist() == [-2.0]


def test_everything_is_compiled_once_for_each_type():
    """Later calls find the code there: none waits for the compiler, and none compiles beside
    another process.
    """
    ready = [native._ready(dtype) for dtype in (torch.float32, torch.float64)]
    assert [like.dtype for like in ready] == [np.float32, np.float64]
    native._ready_to_find()
    entries = [getattr(kernels, name) for name in ENTRIES]
    before = [len(entry.signatures) for entry in entries]
    for dtype in (torch.float32, torch.float64):
        found = reductions(torch.device("cpu"))
        tensors = [torch.randn(4, 3, dtype=dtype) for _ in range(2)]
        found.copy(tensors, tensors, [torch.empty_like(x) for x in tensors])
        found.watch(tensors)
        found.screen(tensors, tensors, found.places(torch.zeros(1, 2, dtype=torch.float64))[0])
        found.distances(tensors, tensors)
        found.outer_products(tensors, found.example_squares(tensors))
        found.preactivations(tensors, [((-1.0, 1.0), (2.0, 3.0)), None])
        found.activations(tensors, (3, 3))
        room = found.layer_by_layer(4, [None, None], (3, 3)).open()
        room.see_input(0, tensors[0])
        assert room.see(0, *tensors)
        room.hooks[0](tensors[0])
    assert [len(entry.signatures) for entry in entries] == before == [*[1] * 6, *[2] * 6]


ENTRIES = (
    *("find", "norms", "rough_norms", "see", "see_input", "see_delta"),  # of any type
    *("distances", "copy", "example_squares", "outer_products", "preactivations", "activations"),
)

USE = """
import sys, torch
from isometry.signals.native import reductions
for name in sys.argv[1:]:
    x = torch.full((4, 3), 2.0, dtype=getattr(torch, name))
    assert reductions(x.device).distances([x, x], [x - 2, x]).tolist() == [48**0.5, 0.0]
"""


@pytest.mark.slow
def test_two_types_compiled_at_once_do_not_mix_in_the_cache(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen([sys.executable, "-c", USE, name], env=environment)
        for name in ("float32", "float64")
    ]
    assert [process.wait(120) for process in both] == [0, 0]
    subprocess.run(
        [sys.executable, "-c", USE, "float32", "float64"], env=environment, check=True, timeout=120
    )
    (index,) = tmp_path.rglob("kernels.distances-*.nbi")
    assert len(list(index.parent.glob("kernels.distances-*.nbc"))) == 2


def test_threads_that_ask_at_once_get_the_same_array(monkeypatch):
    """With two, a tensor seen through one and its copy seen through the other would not be of one
    type.
    """
    threads = 4
    calls = []
    barrier = threading.Barrier(threads)

    def compile_slowly(like):
        calls.append(like)
        time.sleep(0.05)

    monkeypatch.setattr(native.kernels, "compile_all", compile_slowly)
    for name in ("_ready", "_load"):
        monkeypatch.setattr(native, name, functools.cache(getattr(native, name).__wrapped__))
    with ThreadPoolExecutor(threads) as pool:
        found = list(
            pool.map(lambda _: (barrier.wait(), native._ready(torch.float32))[1], range(threads))
        )
    assert len({id(array) for array in found}) == len(calls) == 1


@pytest.mark.parametrize(("device", "loaded"), [("cpu", [torch.float32]), ("cuda", [])])
def test_loops_are_loaded_early_where_they_are_used(device, loaded, monkeypatch):
    started = []
    monkeypatch.setattr(native, "_ready", started.append)
    native.load_early(torch.device(device))
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(60)
    assert started == loaded
