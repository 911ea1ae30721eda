import math

import pytest
import torch

from isometry.signals.reductions import Reductions
from isometry.signals.statistics import (
    count_inside,
    largest_by_unit,
    merge_moments,
    moments,
    shifted_sums,
)


def moments_of(block):
    counts = torch.full((len(block),), float(block[0].numel()), dtype=torch.float64)
    return moments(shifted_sums(block, torch.empty_like(block)), counts)


def test_moments_keep_their_digits_far_from_zero():
    torch.manual_seed(0)
    small = 1e-6 * torch.randn(2, 64, 100, dtype=torch.float64)
    mean, variance = moments_of(0.5 + small)
    torch.testing.assert_close(variance, small.var((1, 2), correction=0), rtol=1e-9, atol=0)
    torch.testing.assert_close(mean, 0.5 + small.mean((1, 2)), rtol=1e-15, atol=0)


def test_moments_of_tiny_float32_values_do_not_underflow():
    x = torch.tensor([[[1e-30, -1e-30]]])
    assert moments_of(x)[1].item() == pytest.approx(1e-60, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_moments_of_large_16_bit_tensors_are_those_of_their_values(dtype):
    """The differences from the first entry, 4, would be rounded to 16 bit: the others are 400 times
    smaller.
    """
    x = (torch.rand(64, 4, 30, 30, generator=torch.Generator().manual_seed(0)) / 100).to(dtype)
    x[0, 0, 0, 0] = 4.0
    device = torch.device("cpu")
    found = Reductions(device).preactivations([x, x], [None, None])
    expected = torch.tensor([x.double().mean(), x.double().var(correction=0)], dtype=torch.float64)
    for k in range(2):
        # float32's differences
        torch.testing.assert_close(found[:2, k], expected, rtol=1e-5, atol=0)


def test_merged_moments_are_those_of_the_union():
    torch.manual_seed(0)
    parts = [
        torch.randn(1, count, 7, dtype=torch.float64) * scale + scale
        for count, scale in ((5, 1.0), (12, 3.0), (1, 0.1))
    ]
    means, variances = (torch.stack(c) for c in zip(*map(moments_of, parts), strict=True))
    merged = torch.stack(merge_moments(torch.tensor([5.0, 12.0, 1.0]), means, variances), dim=1)
    union = torch.cat(parts, dim=1)
    torch.testing.assert_close(
        merged[0], torch.stack([union.mean(), union.var(correction=0)]), rtol=1e-12, atol=0
    )


def test_entries_in_closed_intervals_are_counted():
    x = torch.tensor([[[-3.0, -1.0, 0.0, 0.5, 2.0, math.nan]]])
    assert count_inside(x, torch.empty_like(x), ((-math.inf, -1.0), (2.0, math.inf))).tolist() == [
        3
    ]
    assert count_inside(x, torch.empty_like(x), ((0.0, 0.5),)).tolist() == [2]
    assert count_inside(x, torch.empty_like(x), ()).tolist() == [0]


def alive(block):
    return largest_by_unit(block, torch.empty_like(block)).ne(0).tolist()


def test_alive_units_of_vectors_and_of_feature_maps():
    a = torch.zeros(1, 3, 4)
    a[0, 1, 2] = -1e-30
    a[0, 0, 3] = math.nan
    assert alive(a) == [[False, False, True, True]]
    maps = torch.zeros(1, 3, 2, 5, 5)
    maps[0, 2, 1, 4, 4] = 1
    assert alive(maps) == [[False, True]]
