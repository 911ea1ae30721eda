import math

import pytest
import torch

from isometry import schedulers


def rates(make, steps=100, lr=0.5):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_step_falls_at_its_milestones():
    seen = rates(lambda o: schedulers.step(o, 100, [0.5, 0.75], 0.1))
    assert [seen[t] for t in (0, 49, 50, 74, 75, 99)] == pytest.approx(
        [0.5, 0.5, 0.05, 0.05, 0.005, 0.005]
    )


def test_cosine_is_a_cosine():
    seen = rates(lambda o: schedulers.cosine(o, 100, 0.2))
    expected = [0.5 * (0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * t / 100))) for t in range(100)]
    assert seen == pytest.approx(expected)


def test_warmup_rises_then_falls():
    seen = rates(lambda o: schedulers.warmup_cosine(o, 100, 0.1, 0.0))
    assert seen[0] > 0
    assert seen[:11] == sorted(seen[:11])
    assert max(seen) == pytest.approx(0.5)
    assert seen[10:] == sorted(seen[10:], reverse=True)
