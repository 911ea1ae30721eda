"""A statistic of one's own, by value."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import isometry
from isometry.errors import UserError
from isometry.signals.own import Statistic

LARGEST = Statistic("preactivation", lambda h: h.abs().max())
SPARSE = Statistic("activation", lambda a: (a == 0).double().mean())
SPECTRAL = Statistic("weight", lambda w: torch.linalg.matrix_norm(w, 2))


def test_each_is_a_column_of_the_tensors_it_asks_for(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    x = torch.randn(4, 5)
    h = net[0](x).detach()
    logits = net(x).detach()
    spectral = [torch.linalg.matrix_norm(net[k].weight.detach(), 2).item() for k in (0, 2)]
    own = {"largest": LARGEST, "sparse": SPARSE, "spectral": SPECTRAL}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with isometry.watch(net, tmp_path, every_n_steps=1, statistics=own) as signals:
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(net(x), torch.arange(4) % 3).backward()
            optimizer.step()
    frame = signals.frame()
    first = frame[frame.step == 0]
    expected = [h.abs().max().item(), logits.abs().max().item()]
    assert first["largest"].tolist() == pytest.approx(expected, rel=1e-6)
    assert first["sparse"].tolist() == pytest.approx([(h <= 0).double().mean().item(), 0.0])
    assert first["spectral"].tolist() == pytest.approx(spectral, rel=1e-6)
    last = frame[frame.step == 2]  # the weights after the last step: there is no batch
    assert last[["largest", "sparse", "spectral"]].isna().all(axis=None)
    assert math.isfinite(frame.loc[frame.step == 1, "largest"].sum())


@pytest.mark.parametrize("wrong", [{"dead": SPARSE}, {"a b": SPARSE}, {"mine": 3}, 7])
def test_names_and_kinds_are_checked(wrong):
    with pytest.raises(UserError, match="must map names that are no column yet"):
        isometry.watch(nn.Linear(2, 2), statistics=wrong)
