import math

import pytest
import torch

from builders import phi_of
from isometry.layers.spec import LayerSpec
from isometry.signals.statistics import (
    alive,
    example_norms,
    merge_moments,
    moments,
    norm,
    saturated,
    shifted_sums,
)


def moments_of(*tensors):
    """Mean and variance of each, two [n]."""
    counts, sums = zip(*map(shifted_sums, tensors), strict=True)
    return moments(*torch.stack(sums).unbind(-1), torch.tensor(counts, dtype=torch.float64))


def test_moments_keep_their_digits_far_from_zero():
    torch.manual_seed(0)
    small = 1e-6 * torch.randn(2, 64, 100, dtype=torch.float64)
    mean, variance = moments_of(*(0.5 + small))
    torch.testing.assert_close(variance, small.var((1, 2), correction=0), rtol=1e-9, atol=0)
    torch.testing.assert_close(mean, 0.5 + small.mean((1, 2)), rtol=1e-15, atol=0)


def test_moments_of_tiny_float32_values_do_not_underflow():
    x = torch.tensor([[1e-30, -1e-30]])
    assert moments_of(x)[1].item() == pytest.approx(1e-60, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_moments_of_large_16_bit_tensors_are_those_of_their_values(dtype):
    """The differences from the first entry, 4, would be rounded to 16 bit: the others are 400 times
    smaller.
    """
    x = (torch.rand(64, 4, 30, 30, generator=torch.Generator().manual_seed(0)) / 100).to(dtype)
    x[0, 0, 0, 0] = 4.0
    found = torch.stack(moments_of(x)).flatten()
    expected = torch.stack([x.double().mean(), x.double().var(correction=0)])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)  # float32's differences


def test_merged_moments_are_those_of_the_union():
    torch.manual_seed(0)
    parts = [
        torch.randn(count, 7, dtype=torch.float64) * scale + scale
        for count, scale in ((5, 1.0), (12, 3.0), (1, 0.1))
    ]
    means, variances = (value.view(-1, 1) for value in moments_of(*parts))
    counts = torch.tensor([[35.0], [84.0], [7.0]], dtype=torch.float64)
    merged = torch.cat(merge_moments(counts, means, variances))
    union = torch.cat(parts)
    expected = torch.stack([union.mean(), union.var(correction=0)])
    torch.testing.assert_close(merged, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "relu", "gelu", "sine", "hard_tanh", "selu"])
def test_saturation_is_where_the_slope_is_small(name):
    phi = phi_of(name)
    z = 4 * torch.randn(50, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z[0, 0] = math.nan
    slopes = torch.from_numpy(phi.phi_prime(z.numpy())).abs().flatten()[1:]
    expected = (slopes < 0.05 * phi.slope_max).sum().item()  # the NaN is not
    assert int(saturated(phi, z)) == expected


def layer(kind):
    return LayerSpec(1, "layer", kind, [torch.nn.Parameter(torch.zeros(3, 3))], [])


def test_units_are_alive_where_any_example_shows_it():
    a = torch.zeros(4, 3)
    a[2, 1] = -1e-30
    a[1, 2] = math.nan
    assert alive(layer("linear"), a).tolist() == [False, True, True]
    assert alive(layer("linear"), a.unsqueeze(1)).tolist() == [False, True, True]
    features = torch.zeros(4, 3, 5, 5)
    features[3, 0, 4, 4] = 1.0
    assert alive(layer("conv"), features).tolist() == [True, False, False]
    assert alive(layer("conv"), features[..., :1, 0]).tolist() == [False, False, False]


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1.0, 1e30, 1e38])
def test_norms_hold_over_float32s_range(scale):
    x = torch.full((3, 8, 2), scale)
    value = float(x[0, 0, 0])  # 1e-40 is rounded to a denormal
    assert float(norm(x)) == pytest.approx(value * math.sqrt(48), rel=1e-12)
    assert example_norms(x).tolist() == pytest.approx([value * 4] * 3, rel=1e-12)
