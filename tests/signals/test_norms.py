import math

import pytest
import torch

from isometry.signals import norms as module
from isometry.signals.norms import distances, grouped, nonfinite_counts
from isometry.signals.norms import norms as norms_on

CPU = torch.device("cpu")


def norms(tensors):
    return norms_on(tensors, CPU)


MAGNITUDES = [1e-44, 1e-40, 1e-30, 1e-22, 1e-10, 1.0, 1e10, 1e19, 1e25, 1e38]


@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_norms_hold_over_float32s_range(magnitude):
    tensor = torch.full((30, 40), magnitude, dtype=torch.float32)
    # what float32 stores, denormals included
    exact = float(tensor[0, 0].double()) * math.sqrt(1200)
    assert norms([tensor])[0].item() == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("magnitude", [1e-30, 1e25])
def test_the_usual_norm_is_wrong_there(magnitude):
    """What every other tool reports: 0 or inf. If torch mends this, the float64 norms may become
    float32 ones.
    """
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
    # the third overflows in float32
    assert norms(tensors).isfinite().tolist() == [
        True,
        False,
        True,
    ]


SHAPES = {
    "few shapes": [(100, 7)] + [(10, 10)] * 9 + [(3, 10)] * 5,
    "many shapes": [(k, 3) for k in range(1, 9)],
    "numbers": [()] * 6,
    "empty shards": [(0, 4)] * 3 + [(2, 4)] * 6,
    "large": [(70_001,)] * 4,
}


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("magnitude", [1e-40, 1.0, 1e38])
@pytest.mark.parametrize("together", [False, True])
def test_tensors_taken_together_have_the_numbers_of_each_alone(
    shapes, magnitude, together, monkeypatch
):
    if together:
        monkeypatch.setattr(module, "SCREENED", frozenset())
    generator = torch.Generator().manual_seed(0)
    tensors, others = (
        [torch.rand(s, generator=generator) * magnitude for s in shapes] for _ in range(2)
    )
    expected = torch.stack([t.double().norm() for t in tensors])
    torch.testing.assert_close(norms(tensors), expected, rtol=1e-12, atol=0)
    expected = torch.stack([(t - o).double().norm() for t, o in zip(tensors, others, strict=True)])
    torch.testing.assert_close(distances(tensors, others, CPU), expected, rtol=1e-12, atol=0)
    tensors[1].view(-1)[:2] = math.inf
    assert nonfinite_counts(tensors).tolist() == [
        min(2, tensors[1].numel()) if k == 1 else 0 for k in range(len(shapes))
    ]


def test_what_is_taken_together():
    tensors = {name: [torch.empty(s) for s in shapes] for name, shapes in SHAPES.items()}
    assert {name: len(list(grouped(each))) for name, each in tensors.items()} == {
        "few shapes": 3,
        "many shapes": 8,
        "numbers": 1,
        "empty shards": 2,
        "large": 4,
    }
    assert len(list(grouped([torch.ones(2), torch.ones(2).double(), torch.ones(2)]))) == 3


def test_a_list_of_nothing_has_no_norms():
    assert norms([]).shape == distances([], [], CPU).shape == (0,)
