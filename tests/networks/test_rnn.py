"""Recurrent networks: what they read, how they begin, and gradients through time in closed form."""

import pytest
import torch
from torch import nn

from commands import composed
from isometry.errors import UserError
from isometry.training.build import build_network

X = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def built(*overrides, shape=(2, 4, 5)):
    return build_network(composed("model.width=6", *overrides), shape, 10).double()


@pytest.mark.parametrize("model", ["rnn", "irnn", "lstm", "gru"])
@pytest.mark.parametrize("reads", ["rows", "pixels"])
def test_what_is_read(model, reads):
    """Row by row, each pixel's channels beside one another; torch's own recurrence over them."""
    network = built(f"model={model}", f"model.reads={reads}")
    steps = X.permute(0, 2, 3, 1)
    steps = steps.reshape(3, 4, 10) if reads == "rows" else steps.reshape(3, 20, 2)
    states, _ = network.recurrence(steps)
    expected = network.readout.weighted(states[:, -1])
    torch.testing.assert_close(network(X), expected, rtol=1e-13, atol=1e-15)
    assert network(X).shape == (3, 10)


@pytest.mark.parametrize("model", ["rnn", "lstm", "gru"])
def test_orthogonal_matrices_gate_by_gate(model):
    network = built(f"model={model}", "model.start=orthogonal", "model.gain=1.3", "model.depth=3")
    for level in range(2):
        weight = getattr(network.recurrence, f"weight_hh_l{level}")
        for gate in weight.split(6):
            torch.testing.assert_close(
                gate @ gate.T, 1.69 * torch.eye(6).double(), atol=1e-5, rtol=0
            )


def test_an_irnn_begins_as_in_the_paper():
    network = built("model=irnn", "model.width=40", shape=(1, 28, 28)).recurrence
    torch.testing.assert_close(network.weight_hh_l0, torch.eye(40).double())
    assert not network.bias_ih_l0.any()
    assert not network.bias_hh_l0.any()
    assert float(network.weight_ih_l0.detach().std()) == pytest.approx(0.001, rel=0.1)
    assert network.nonlinearity == "relu"


def test_the_forget_gate_begins_open():
    recurrence = built("model=lstm", "model.forget_bias=2.5").recurrence
    both = recurrence.bias_ih_l0 + recurrence.bias_hh_l0
    torch.testing.assert_close(both[6:12], torch.full((6,), 2.5).double())
    assert not torch.isclose(both[:6], torch.tensor(2.5).double()).any()


def test_the_cells_gradient_falls_by_the_forget_gate():
    """With W_hh = 0 and no input, ∂c_t/∂c_{t-1} = σ(b_f) (Hochreiter & Schmidhuber 1997)."""
    cell = built("model=lstm", "model.forget_bias=1.0").recurrence
    with torch.no_grad():
        cell.weight_hh_l0.zero_()
    state = torch.zeros(1, 1, 6, dtype=torch.float64)
    memory = torch.randn(1, 1, 6, dtype=torch.float64).requires_grad_()
    _, (_, last) = cell(torch.zeros(1, 7, 10, dtype=torch.float64), (state, memory))
    (gradient,) = torch.autograd.grad(last.sum(), memory)
    expected = torch.sigmoid(torch.tensor(1.0, dtype=torch.float64)) ** 7
    torch.testing.assert_close(gradient, expected.expand_as(gradient), rtol=1e-6, atol=0)


def test_an_orthogonal_linear_recurrence_keeps_the_gradients_norm():
    recurrence = built("model=rnn", "model.gain=0.9").recurrence
    state = torch.zeros(1, 1, 6, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        recurrence.weight_ih_l0.zero_()
        recurrence.bias_ih_l0.zero_()
        recurrence.bias_hh_l0.zero_()
    _, last = recurrence(torch.zeros(1, 30, 10, dtype=torch.float64), state)
    direction = torch.randn_like(last)
    (gradient,) = torch.autograd.grad(last, state, direction)
    # orthogonal matrices are drawn in float32: 30 steps round by 30 x 1e-7
    assert float(gradient.norm() / direction.norm()) == pytest.approx(0.9**30, rel=1e-4)


def test_what_it_does_not_take_is_named():
    with pytest.raises(UserError, match="activation=gelu: model=rnn takes tanh or relu"):
        built("model=rnn", "activation=gelu")
    with pytest.raises(UserError, match="takes no normalization"):
        built("model=lstm", "normalization=layer")
    with pytest.raises(UserError, match=r"model.gain=2.0: is for model.start="):
        built("model=rnn", "model.start=torch", "model.gain=2.0")
    with pytest.raises(UserError, match=r"model.depth=1: must be at least 2"):
        built("model=gru", "model.depth=1")


def test_the_weights_follow_the_seed_alone():
    torch.manual_seed(5)
    first = built("model=lstm")
    torch.manual_seed(6)
    before = torch.get_rng_state()
    second = built("model=lstm")
    assert torch.equal(before, torch.get_rng_state())
    other = built("model=lstm", "seed=1")
    weights = [n.recurrence.weight_ih_l0 for n in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert isinstance(first.recurrence, nn.LSTM)
