"""φ that overwrites h: by a module or a function, behind a map itself or behind a norm."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import isometry

MODULES = {
    "relu": (nn.ReLU, torch.relu),
    "leaky_relu": (
        lambda inplace=False: nn.LeakyReLU(0.1, inplace),
        lambda z: F.leaky_relu(z, 0.1),
    ),
    "hardswish": (nn.Hardswish, F.hardswish),
    "selu": (nn.SELU, F.selu),
}
FUNCTIONS = {
    "relu_": (torch.relu_, torch.relu),
    "tensor.relu_": (lambda z: z.relu_(), torch.relu),
    "tensor.tanh_": (lambda z: z.tanh_(), torch.tanh),
    "sigmoid_": (torch.sigmoid_, torch.sigmoid),
    "inplace=True": (lambda z: F.elu(z, inplace=True), F.elu),
}
BEHIND = ["linear", "conv", "norm"]


class Net(nn.Module):
    """Two maps with φ between them."""

    def __init__(self, phi, behind):
        super().__init__()
        torch.manual_seed(0)
        self.conv = behind != "linear"
        self.first = nn.Conv2d(3, 4, 3) if self.conv else nn.Linear(3, 4)
        self.norm = nn.BatchNorm2d(4) if behind == "norm" else None
        self.phi = phi
        self.readout = nn.Linear(4, 3)

    def forward(self, x):
        h = self.first(x)
        a = self.phi(h if self.norm is None else self.norm(h))
        return self.readout(a.mean((2, 3)) if self.conv else a)


def by_hand(model, phi, x, y):
    """q, δ and the variance of a, by autograd with a φ that overwrites nothing."""
    h = model.first(x)
    h.retain_grad()
    a = phi(h if model.norm is None else model.norm(h))
    logits = model.readout(a.mean((2, 3)) if model.conv else a)
    F.cross_entropy(logits, y, reduction="sum").backward()
    return {
        "forward_second_moment": h.detach().square().mean().item(),
        "activation_var": a.detach().var(correction=0).item(),
        "backprop_norm": h.grad.square().sum().div(len(x)).sqrt().item(),
    }


def measured(model, x, y):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with isometry.watch(model, every_n_steps=1) as signals:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return signals.frame().query("step == 0").iloc[0]


def check(phi, plain, behind):
    x = torch.randn(6, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    if behind == "linear":
        x = x[:, :, 0, 0]
    y = torch.arange(6) % 3
    expected = by_hand(Net(plain, behind).double(), plain, x, y)
    row = measured(Net(phi, behind).double(), x, y)
    for column, value in expected.items():
        assert row[column] == pytest.approx(value, rel=1e-12), column


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("name", MODULES)
def test_modules(name, behind):
    module, plain = MODULES[name]
    check(module(inplace=True), plain, behind)


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name, behind):
    check(*FUNCTIONS[name], behind)
