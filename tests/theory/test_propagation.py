"""The per-layer prediction against networks that are drawn and differentiated here, in float64 and
without our layers.
"""

import functools
import math

import numpy as np
import pytest
import torch

from builders import phi_of
from isometry import activations
from isometry.theory.moments import MomentTable, exact
from isometry.theory.propagation import LayerRecord, predict

SCALES = {
    "ordered": lambda critical: 0.7 * critical,
    "critical": lambda critical: critical,
    "chaotic": lambda critical: 1.5 * critical,
}
# σ_w, rounded, from closed forms or the literature: a theory value is not compared with itself
CRITICAL = {
    "linear": 1.0, "relu": math.sqrt(2), "leaky_relu": math.sqrt(2 / 1.0001), "tanh": 1.0,
    "erf": math.sqrt(math.pi) / 2, "softsign": 1.0, "hard_tanh": 1.0, "arctan": 1.0, "gelu": 2.0,
    "silu": 2.0, "selu": 0.96, "elu": 1.2, "sine": 1.0, "sigmoid": 10.15, "softplus": 1.4,
    "mish": 1.6,
}  # fmt: skip
FAST = {
    ("relu", "critical"),
    ("tanh", "chaotic"),
    ("sigmoid", "ordered"),
    ("gelu", "critical"),
    ("linear", "chaotic"),
}


def network(
    name,
    sigma_w,
    sigma_b=0.0,
    depth=8,
    width=200,
    normalization="none",
    distribution="gaussian",
    inputs=None,
):
    phi = phi_of(name)
    sizes = [inputs or width, *[width] * (depth - 1), 10]
    return [
        LayerRecord(
            index + 1,
            f"layers.{index}",
            "readout" if index == depth - 1 else "hidden",
            sizes[index],
            sizes[index + 1],
            None if index == depth - 1 else phi,
            "none" if index == depth - 1 else normalization,
            sigma_w,
            sigma_b,
            distribution,
        )
        for index in range(depth)
    ]


@functools.cache
def unit_normals(seeds, outputs, inputs, layer):
    """The same for every network of a shape: drawing them is most of a test's time."""
    generator = torch.Generator().manual_seed(layer)
    return torch.randn(seeds, outputs, inputs, generator=generator, dtype=torch.float64)


def draw(layer, seeds, generator):
    shape = (seeds, layer.outputs, layer.inputs)
    if layer.distribution == "uniform":
        unit = (torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5) * math.sqrt(12)
    elif layer.distribution == "orthogonal":
        large = max(shape[1:])
        small = min(shape[1:])
        normal = torch.randn(seeds, large, small, generator=generator, dtype=torch.float64)
        q, r = torch.linalg.qr(normal)
        q = q * torch.sign(torch.diagonal(r, dim1=1, dim2=2)).unsqueeze(1)
        unit = (q if layer.outputs >= layer.inputs else q.transpose(1, 2)) * math.sqrt(large)
    else:
        unit = unit_normals(*shape, layer.index)
    return unit * layer.sigma_w / math.sqrt(layer.inputs)


def simulate(layers, x, seeds):
    """log q_l, log ‖δ_l‖² relative to the last hidden layer, log ‖δ_l‖²‖x_{l-1}‖²; [L, seeds]
    each.
    """
    generator = torch.Generator().manual_seed(0)
    modules = [
        None if layer.activation is None else layer.activation.module().double() for layer in layers
    ]
    a = x.expand(seeds, -1)
    hs = []
    sizes = []
    for layer, module in zip(layers, modules, strict=True):
        sizes.append(a.square().sum(1))
        h = torch.bmm(draw(layer, seeds, generator), a.unsqueeze(2)).squeeze(2)
        h = h + layer.sigma_b * torch.randn(h.shape, generator=generator, dtype=torch.float64)
        h = h.detach().requires_grad_() if not hs else h
        h.retain_grad()
        hs.append(h)
        z = h - h.mean(1, keepdim=True) if layer.normalization == "layer" else h
        if layer.normalization != "none":
            z = z / z.square().mean(1, keepdim=True).sqrt()
        a = z if module is None else module(z)
    (a * torch.randn(a.shape, generator=generator, dtype=torch.float64)).sum().backward()
    with torch.no_grad():
        q = torch.stack([h.square().mean(1).log() for h in hs]).numpy()
        delta = torch.stack([h.grad.square().sum(1).log() for h in hs]).numpy()
        sample = delta + torch.stack([size.log() for size in sizes]).numpy() - delta[-2]
    return q, delta - delta[-2], sample


def check(layers, seeds, allowance):
    """Means within 4.5 standard errors plus what second order may add; standard deviations within
    15 % and their error.
    """
    x = torch.randn(
        layers[0].inputs, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    predicted = predict(layers, np.full((1, 1, 1), float(x.square().mean())), 128)
    assert predicted.reason is None
    f = predicted.fluctuations
    expected = [
        (predicted.log_q + f.q_shift, f.q_std),
        (predicted.log_delta + f.delta_shift, f.delta_std),
        (predicted.log_sample + f.sample_shift, f.sample_std),
    ]
    for measured, (mean, std) in zip(simulate(layers, x, seeds), expected, strict=True):
        # increments between layers: the layers of one network are correlated
        steps = np.diff(measured, axis=0)
        wanted = np.diff(mean)
        error = 4.5 * steps.std(1) / math.sqrt(seeds) + allowance
        assert (np.abs(steps.mean(1) - wanted) < error).all(), (steps.mean(1), wanted, error)
        spread = measured.std(1)
        assert (
            np.abs(spread - std) < 0.15 * std + 3.5 * spread / math.sqrt(2 * seeds) + allowance
        ).all(), (spread, std)


def cases():
    for name, sigma_w in CRITICAL.items():
        for phase, scale in SCALES.items():
            marks = () if (name, phase) in FAST else (pytest.mark.slow,)
            yield pytest.param(name, scale(sigma_w), marks=marks, id=f"{name}-{phase}")


@pytest.mark.parametrize(("name", "sigma_w"), list(cases()))
def test_every_activation_in_every_phase(name, sigma_w):
    """Second order in 1/width moves a mean by a few /n² a layer, near a critical point by more: 2/n
    is allowed.
    """
    check(network(name, sigma_w, sigma_b=0.1), seeds=150, allowance=2 / 200)


@pytest.mark.parametrize(
    ("name", "sigma_w", "sigma_b", "distribution", "normalization"),
    [
        ("relu", math.sqrt(2), 0.0, "uniform", "none"),
        ("tanh", 1.5, 0.2, "orthogonal", "none"),
        ("relu", 1.0, 0.0, "gaussian", "layer"),
        ("tanh", 1.3, 0.1, "gaussian", "rms"),
    ],
)
def test_distributions_and_norms(name, sigma_w, sigma_b, distribution, normalization):
    layers = network(
        name,
        sigma_w,
        sigma_b,
        width=100,
        depth=6,
        normalization=normalization,
        distribution=distribution,
    )
    check(layers, seeds=150, allowance=2 / 100)


def test_an_orthogonal_linear_network_does_not_fluctuate():
    f = predict(
        network("linear", 1.0, distribution="orthogonal"), np.ones((1, 1, 1)), 128
    ).fluctuations
    np.testing.assert_allclose(f.delta_std, 0.0, atol=1e-6)
    np.testing.assert_allclose(f.delta_shift, 0.0, atol=1e-12)


def test_relu_is_hanin_and_rolnicks():
    """Mean -2.5/n and variance 5/n a layer in log ‖x‖², to first order in 1/n."""
    width = 100
    depth = 11
    f = predict(
        network("relu", math.sqrt(2), width=width, depth=depth), np.ones((1, 1, 1)), 128
    ).fluctuations
    hidden = depth - 2
    assert f.delta_std[0] ** 2 == pytest.approx(hidden * 5 / width, rel=1e-9)
    assert f.delta_shift[0] == pytest.approx(-hidden * 2.5 / width, rel=1e-9)


def test_depth_1000_at_rate_a_quarter_is_a_number():
    layers = network("linear", 0.25, depth=1001, width=10_000)
    predicted = predict(layers, np.ones((1, 1, 1)), 128)
    # 10^-601.5
    assert 0.5 * predicted.log_delta[0] / math.log(10) == pytest.approx(
        999 * math.log10(0.25), rel=1e-9
    )
    assert predicted.log_q[-1] / math.log(10) == pytest.approx(
        1001 * 2 * math.log10(0.25), rel=1e-9
    )


def test_weight_gradients_of_relu_are_equal_in_all_hidden_layers_whatever_sigma_w():
    """FIGURES.md, trap 2."""
    predicted = predict(network("relu", 1.0), np.ones((1, 1, 1)), 128)
    np.testing.assert_allclose(np.diff(predicted.log_sample[:-1]), 0.0, atol=1e-6)
    assert np.diff(predicted.log_delta[:-1]) == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("distribution", ["sparse", "identity"])
def test_where_there_is_no_result_there_is_a_reason(distribution):
    predicted = predict(network("relu", 1.0, distribution=distribution), np.ones((1, 1, 1)), 128)
    assert np.isnan(predicted.log_delta).all()
    assert distribution in predicted.reason


@pytest.mark.parametrize("name", ["tanh", "relu", "gelu", "hard_tanh", "selu"])
def test_interpolated_moments_are_those_of_the_quadrature(name):
    log_q = np.random.default_rng(0).uniform(-20, 20, 60)
    found = MomentTable(phi_of(name)).at(log_q)
    wanted = np.array([exact(phi_of(name), math.exp(value)) for value in log_q])
    np.testing.assert_allclose(found.log_p, wanted[:, 0], atol=1e-6)
    np.testing.assert_allclose(found.log_slope, wanted[:, 1], atol=1e-6)
    np.testing.assert_allclose(found.kurtosis, wanted[:, 2], rtol=1e-5)
    np.testing.assert_allclose(found.tilt, wanted[:, 5], rtol=1e-5)


def test_sine_at_any_length():
    """E sin² = (1 - e^(-2q))/2, also where the wave is far too fast for any quadrature."""
    log_q = np.linspace(-30, 50, 80)
    found = MomentTable(activations.sine()).at(log_q)
    np.testing.assert_allclose(np.exp(found.log_p), -np.expm1(-2 * np.exp(log_q)) / 2, rtol=1e-5)
    np.testing.assert_allclose(
        np.exp(found.log_slope), (1 + np.exp(-2 * np.exp(log_q))) / 2, rtol=1e-5
    )
