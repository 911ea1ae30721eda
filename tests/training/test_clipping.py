"""Clipping by unit and by layer, against their formulas."""

import pytest
import torch

from builders import mlp
from isometry import activations
from isometry.training.clipping import adaptive, by_layer


def with_gradients(scale):
    torch.manual_seed(0)
    network = mlp((1, 4, 4), 3, activations.tanh(), depth=4, width=5).double()
    for parameter in network.parameters():
        parameter.grad = scale * torch.randn_like(parameter)
    return network, [parameter.grad.clone() for parameter in network.parameters()]


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_agc_by_hand(scale):
    """Brock et al. 2021, eq. 3: rows of weights, biases as a whole, the readout left alone."""
    network, before = with_gradients(scale)
    adaptive(network, 0.01)
    *others, weight, bias = zip(network.parameters(), before, strict=True)
    for parameter, gradient in (weight, bias):
        assert torch.equal(parameter.grad, gradient)
    for parameter, gradient in others:
        rows = [0] if parameter.dim() == 1 else range(len(parameter))
        for row in rows:
            w, g, found = (
                (t if parameter.dim() == 1 else t[row])
                for t in (parameter, gradient, parameter.grad)
            )
            most = 0.01 * max(float(w.detach().norm()), 1e-3)
            factor = min(1.0, most / float(g.norm()))
            torch.testing.assert_close(found, factor * g, rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_by_layer_by_hand(scale):
    network, before = with_gradients(scale)
    by_layer(network, 0.5)
    pairs = list(zip(network.parameters(), before, strict=True))
    for (weight, g_w), (bias, g_b) in zip(pairs[::2], pairs[1::2], strict=True):
        norm = float(torch.cat([g_w.flatten(), g_b]).norm())
        factor = min(1.0, 0.5 / norm)
        torch.testing.assert_close(weight.grad, factor * g_w, rtol=1e-12, atol=0)
        torch.testing.assert_close(bias.grad, factor * g_b, rtol=1e-12, atol=0)


def test_a_gradient_of_zero_or_none_is_left():
    network, _ = with_gradients(0.0)
    next(iter(network.parameters())).grad = None
    adaptive(network, 0.01)
    by_layer(network, 0.01)
    assert all(p.grad is None or not p.grad.any() for p in network.parameters())
