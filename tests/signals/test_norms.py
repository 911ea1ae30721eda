import math

import pytest
import torch

from isometry.signals.norms import nonfinite_counts, norms, per_example_squares

MAGNITUDES = [1e-44, 1e-40, 1e-30, 1e-22, 1e-10, 1.0, 1e10, 1e19, 1e25, 1e38]


@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_norms_hold_over_float32s_range(magnitude):
    tensor = torch.full((30, 40), magnitude, dtype=torch.float32)
    exact = float(tensor[0, 0].double()) * math.sqrt(1200)  # what float32 stores, denormals included
    assert norms([tensor])[0].item() == pytest.approx(exact, rel=1e-12)
    assert per_example_squares(tensor.unsqueeze(0))[0, 0].sqrt().item() == pytest.approx(exact / math.sqrt(30), rel=1e-12)


@pytest.mark.parametrize("magnitude", [1e-30, 1e25])
def test_the_usual_norm_is_wrong_there(magnitude):
    """What every other tool reports: 0 or inf. If torch mends this, the float64 norms may become float32 ones."""
    assert torch.full((30, 40), magnitude).norm().item() in (0.0, math.inf)


def test_norms_of_mixed_shapes_match_float64():
    torch.manual_seed(0)
    tensors = [torch.randn(shape) for shape in ((3, 4), (100,), (2, 3, 5, 5), (1,))]
    expected = torch.stack([tensor.double().norm() for tensor in tensors])
    torch.testing.assert_close(norms(tensors), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_non_finite_entries_are_seen_and_counted(bad):
    tensors = [torch.ones(50), torch.ones(50), torch.full((50,), 3e38)]
    tensors[1][[3, 7]] = bad
    assert not math.isfinite(norms(tensors)[1])
    assert nonfinite_counts(tensors).tolist() == [0, 2, 0]
    assert norms(tensors).isfinite().tolist() == [True, False, True]  # the third overflows in float32
