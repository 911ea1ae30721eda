"""The largest eigenvalues against a Hessian and a Gauss-Newton matrix written out; the largest
stable rate against torch's own optimizers on a quadratic.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import functional
from torch.nn import functional as F

from isometry.initialization.curvature import curvature, stable_rate

# eigsh stops at 1e-3 of the eigenvalue; what is found in float32 agrees to the same


def network(norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(4)] if norm else []
    return nn.Sequential(
        nn.Linear(5, 4), *middle, nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)
    )


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(16, 5, generator=generator, dtype=torch.float64)
    return images, torch.randint(3, (16,), generator=generator)


def dense(module, images, labels, loss):
    """Both matrices by `torch.autograd.functional`, in float64."""
    module = module.double().train()
    names, parameters = zip(*module.named_parameters(), strict=True)
    sizes = [p.numel() for p in parameters]
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])

    def out(vector):
        pieces = [v.reshape(p.shape) for v, p in zip(vector.split(sizes), parameters, strict=True)]
        return torch.func.functional_call(module, dict(zip(names, pieces, strict=True)), images)

    hessian = functional.hessian(lambda vector: loss(out(vector), labels), flat)
    jacobian = functional.jacobian(out, flat).reshape(-1, len(flat))
    inner = functional.hessian(lambda z: loss(z, labels), out(flat)).reshape(len(jacobian), -1)
    return tuple(
        float(torch.linalg.eigvalsh(matrix).max())
        for matrix in (hessian, jacobian.T @ inner @ jacobian)
    )


def squared(out, labels):
    return (out - F.one_hot(labels, 3)).square().mean()


@pytest.mark.parametrize("loss", [F.cross_entropy, squared])
def test_eigenvalues_are_those_of_the_matrices_written_out(loss):
    images, labels = batch()
    found = curvature(network(), (images, labels), loss)
    expected = dense(network(), images, labels, loss)
    assert (found.hessian, found.gauss_newton) == pytest.approx(expected, rel=2e-3)
    assert found.reason is None


def test_batch_norm_is_seen_in_training_mode():
    """Where the statistics of the batch depend on the weights."""
    images, labels = batch()
    module = network(norm=True)
    module[1].track_running_stats = False  # buffers that change are no function's
    module[1].running_mean = module[1].running_var = module[1].num_batches_tracked = None
    expected = dense(module, images, labels, F.cross_entropy)
    found = curvature(network(norm=True), (images, labels))
    assert (found.hessian, found.gauss_newton) == pytest.approx(expected, rel=2e-3)


def test_tied_weights_are_one_parameter():
    """ℓ = (w²x)²/2 with x = 1: ℓ'' = 6 w² at w, twice J² = 4 w² for Gauss-Newton's."""

    class Squared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(1, 1, bias=False)
            self.second = nn.Linear(1, 1, bias=False)
            self.second.weight = self.first.weight
            nn.init.constant_(self.first.weight, 0.5)

        def forward(self, x):
            return self.second(self.first(x))

    found = curvature(Squared(), (torch.ones(1, 1), None), lambda out, _: out.square().sum() / 2)
    assert (found.hessian, found.gauss_newton) == pytest.approx((1.5, 1.0))


def test_what_dropout_draws_is_drawn_once():
    """Another draw for each product would be no matrix."""
    images, labels = batch()
    module = network()
    module.append(nn.Dropout(0.5))
    values = []
    for _ in range(2):
        torch.manual_seed(3)
        values.append(curvature(module, (images, labels)).hessian)
    assert values[0] == values[1]


def test_what_overflows_in_float32_is_computed_in_float64():
    """ℓ = c w²/2: the second derivative is c, over float32's range."""
    module = nn.Linear(1, 2, bias=False)
    found = curvature(module, (torch.ones(1, 1), None), lambda out, _: 5e49 * out.square().sum())
    assert found.hessian == pytest.approx(1e50, rel=1e-6)
    assert next(module.parameters()).dtype is torch.float64


def test_reasons():
    module = nn.Linear(1, 2, bias=False)
    found = curvature(module, (torch.ones(1, 1), None), lambda out, _: out.sum() / 0.0)
    assert found.hessian is None
    assert "finite" in found.reason

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return 2 * x

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(context, gradient):
            return 2 * gradient

    found = curvature(
        module, (torch.ones(1, 1), None), lambda out, _: Twice.apply(out).square().sum()
    )
    assert found.hessian is None
    assert "no second derivative" in found.reason


OPTIMIZERS = [
    {"momentum": 0.0},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.5, "weight_decay": 0.7},
]


@pytest.mark.parametrize("settings", OPTIMIZERS)
def test_the_largest_stable_rate_is_that_of_torchs_optimizers(settings):
    """On ℓ = 3 w²/2: 1 % below it w shrinks, 1 % above it grows."""
    limit = stable_rate(3.0, {"_target_": "torch.optim.SGD", **settings})
    ends = []
    for factor in (0.99, 1.01):
        w = torch.ones(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([w], lr=factor * limit, **settings)
        for _ in range(4000):
            optimizer.zero_grad()
            (1.5 * w.square()).sum().backward()
            optimizer.step()
        ends.append(abs(float(w.detach())))
    assert ends[0] < 1e-6
    assert ends[1] > 1e6


def test_no_rate_where_there_is_none():
    sgd = {"_target_": "torch.optim.SGD"}
    assert stable_rate(None, sgd) is None
    assert stable_rate(-1.0, sgd) is None
    assert stable_rate(3.0, {"_target_": "torch.optim.Adam"}) is None
    assert stable_rate(4.0, sgd) == 0.5
    assert math.isclose(stable_rate(np.float64(4.0), sgd), 0.5)
