"""The compiled loops against torch's operations on the same tensors: the other form of each
statistic.
"""

from __future__ import annotations

import math

import pytest
import torch

from builders import phi_of
from isometry.layers.spec import LayerSpec
from isometry.signals import loops
from isometry.signals.norms import distances, keep, norms
from isometry.signals.statistics import alive, example_norms, saturated, shifted_sums

CPU = torch.device("cpu")


def tensors(dtype):
    """Of every layout, size and magnitude; with numbers that are not finite at the end."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(8, 6, 5, 4, generator=generator, dtype=torch.float64)
    whole = draw.to(dtype)
    found = [whole, whole * 1e-30, whole * 1e30, whole[0, 0], whole.transpose(0, 3), whole[:, ::2]]
    found.append(whole.to(memory_format=torch.channels_last))
    for bad in (math.inf, math.nan):
        spoilt = whole.clone()
        spoilt[3, 2, 1, 0] = bad
        found.append(spoilt)
    return found


def in_both_forms(function, monkeypatch):
    compiled = function()
    with monkeypatch.context() as patch:
        patch.setattr(loops, "numbers_of", lambda tensor: None)
        return compiled, function()


def layer(kind):
    return LayerSpec(1, "layer", kind, [torch.nn.Parameter(torch.zeros(3, 3))], [])


STATISTICS = {
    "shifted_sums": lambda x: shifted_sums(x)[1],
    "saturated": lambda x: float(saturated(phi_of("tanh"), x)),
    "alive, conv": lambda x: alive(layer("conv"), x.relu()).double(),
    "alive, linear": lambda x: alive(layer("linear"), x.relu()).double(),
    "example_norms": example_norms,
    "norms": lambda x: norms([x, x[:1]], CPU),
    "distances": lambda x: distances([x], [x.flip(0)], CPU),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", STATISTICS)
def test_both_forms_are_one_number(name, dtype, monkeypatch):
    for x in tensors(dtype):
        found, expected = in_both_forms(lambda x=x: STATISTICS[name](x), monkeypatch)
        found, expected = (torch.as_tensor(v, dtype=torch.float64) for v in (found, expected))
        # sums over 960 numbers in another order, and signed ones may cancel; torch takes the
        # differences from the first entry in the numbers' own precision
        rough = name == "shifted_sums" and dtype == torch.float32
        error = 1e-7 if rough else 1e-12
        size = expected.abs().nan_to_num(posinf=0.0).max().item()
        torch.testing.assert_close(found, expected, rtol=error, atol=error * size, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_is_the_tensor_and_in_no_other_order(dtype):
    weights = torch.randn(4, 3, 5, 5).to(dtype).to(memory_format=torch.channels_last)
    first = torch.randn(4, 3, 5, 5).to(dtype)
    kept = torch.empty_like(weights, memory_format=torch.contiguous_format)
    sizes, moved = keep([weights], [kept], [first], CPU)
    assert torch.equal(kept, weights)
    assert sizes.item() == pytest.approx(weights.double().norm().item(), rel=1e-12)
    assert moved.item() == pytest.approx((weights - first).double().norm().item(), rel=1e-12)


def test_what_is_not_plain_memory_is_left_to_torch():
    assert loops.numbers_of(torch.ones(3).bfloat16()) is None
    assert loops.numbers_of(torch.ones(3, device="meta")) is None
    assert loops.numbers_of(torch.eye(3).to_sparse()) is None
    assert loops.numbers_of(torch.ones(2, 3, requires_grad=True)).shape == (2, 3)
