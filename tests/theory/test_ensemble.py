"""Networks drawn in numpy against the same networks in torch, with autograd."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from builders import phi_of
from isometry.theory.ensemble import by_drawing, can_be_drawn, draw
from isometry.theory.propagation import LayerRecord

EPSILON = 0.03


def layers(activation, normalization, distribution="gaussian", depth=4, width=9, inputs=7):
    sizes = [inputs, *[width] * (depth - 1), 5]
    return [
        LayerRecord(
            index + 1,
            f"layer{index}",
            "hidden" if index < depth - 1 else "readout",
            sizes[index],
            sizes[index + 1],
            phi_of(activation) if index < depth - 1 else None,
            normalization if index < depth - 1 else "none",
            1.3,
            0.2,
            distribution,
            epsilon=EPSILON,
        )
        for index in range(depth)
    ]


def normalized(kind, h):
    if kind == "none":
        return h
    if kind == "rms":
        return h / (h.square().mean(-1, keepdim=True) + EPSILON).sqrt()
    if kind == "layer":
        return F.layer_norm(h, h.shape[-1:], eps=EPSILON)
    return torch.stack([F.batch_norm(x, None, None, training=True, eps=EPSILON) for x in h])


@pytest.mark.parametrize("normalization", ["none", "batch", "layer", "rms"])
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_a_drawn_network_is_that_of_torch(activation, normalization):
    """The same numbers in float64, to rounding; batches of 6 have statistics of their own."""
    records = layers(activation, normalization)
    inputs = np.random.default_rng(5).standard_normal((2, 6, 7))
    found = draw(records, inputs, 1, seed=3)
    rng = np.random.default_rng(3)
    x = torch.tensor(inputs)
    hs = []
    sizes = []
    for record in records:
        weight = torch.tensor(rng.standard_normal((record.outputs, record.inputs)))
        bias = 0.2 * torch.tensor(rng.standard_normal(record.outputs))
        sizes.append(x.square().sum(-1))
        h = (x @ weight.T * 1.3 / math.sqrt(record.inputs) + bias).requires_grad_()
        h.retain_grad()
        hs.append(h)
        z = normalized(record.normalization, h)
        x = z if record.activation is None else getattr(torch, "tanh", None)(z)
        if record.activation is not None and activation == "gelu":
            x = F.gelu(z)
    labels = torch.tensor(rng.integers(5, size=(2, 6)))
    F.cross_entropy(hs[-1].flatten(0, 1), labels.flatten(), reduction="sum").backward()
    deltas = [h.grad.square().sum(-1) for h in hs]
    last = math.log(float(deltas[-2].mean()))
    for i, (h, delta, size) in enumerate(zip(hs, deltas, sizes, strict=True)):
        q = math.log(float(h.detach().square().mean()))
        assert found.log_q[0, i] == pytest.approx(q, abs=1e-9)
        log_delta = math.log(float(delta.mean())) - last
        assert found.log_delta[0, i] == pytest.approx(log_delta, abs=1e-9)
        if normalization != "batch":
            sample = math.log(float((delta * size.detach()).mean())) - last
            assert found.log_sample[0, i] == pytest.approx(sample, abs=1e-9)
    assert np.isnan(found.log_sample).all() == (normalization == "batch")


def test_drawn_weights_have_the_declared_variance_and_orthogonal_ones_are_so():
    """E q_1 = σ_w² ‖x‖²/n + σ_b²: over 400 networks of 9 units within 4 standard errors."""
    inputs = np.ones((1, 1, 7))
    q = np.exp(draw(layers("tanh", "none"), inputs, 400).log_q[:, 0])
    assert q.mean() == pytest.approx(1.3**2 + 0.2**2, abs=4 * q.std() / 20)
    square = layers("linear", "none", "orthogonal", width=7)
    for record in square:
        object.__setattr__(record, "sigma_b", 0.0)
    drawn = draw(square, inputs, 5)
    expected = np.tile(2 * math.log(1.3) * np.arange(1, 4), (5, 1))
    np.testing.assert_allclose(drawn.log_q[:, :3], expected, atol=1e-12)
    np.testing.assert_allclose(drawn.log_delta[:, 0], 4 * math.log(1.3), atol=1e-12)


def test_what_falls_far_below_float64_is_a_logarithm():
    """1,500 linear orthogonal layers at 1/4: ‖δ_1‖² is 10^-1806 of the last hidden layer's."""
    records = layers("linear", "none", "orthogonal", depth=1501, width=7)
    for record in records:
        object.__setattr__(record, "sigma_w", 0.25)
        object.__setattr__(record, "sigma_b", 1.0)
    found = by_drawing(records, np.ones((1, 4, 7)), 2)
    assert found.log_delta[0] == pytest.approx(2 * 1499 * math.log(0.25), rel=1e-9)


def test_an_overflow_is_no_prediction():
    records = layers("linear", "none", depth=200)
    for record in records:
        object.__setattr__(record, "sigma_w", 1e3)
    assert by_drawing(records, np.ones((1, 4, 7)), 2) is None


def test_what_can_be_drawn():
    assert can_be_drawn(layers("tanh", "batch"), 5)
    assert not can_be_drawn(layers("tanh", "batch"), 4)
    assert not can_be_drawn(layers("tanh", "group"), 64)
    assert not can_be_drawn(layers("tanh", "none", depth=1), 64)


def test_the_same_networks_every_time():
    first = draw(layers("tanh", "none"), np.ones((1, 3, 7)), 3)
    np.random.seed(1)
    again = draw(layers("tanh", "none"), np.ones((1, 3, 7)), 3)
    np.testing.assert_array_equal(first.log_delta, again.log_delta)
