"""What the theory does not know is null, with the reason; what it knows agrees with the measurement
(`REFEREE`, E6 to E9).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from builders import gaussian, phi_of
from isometry.activations import Activation, Pointwise
from isometry.initialization.observe import observe
from isometry.initialization.predict import predict_network
from isometry.layers.discover import layers_of, remember
from isometry.theory.fixed_points import limit, limit_of
from isometry.theory.meanfield import second_moment, slope_moment
from isometry.theory.quadrature import error_estimate
from isometry.training.build import build_network


def drawn(network, images, sigma_w=1.4, sigma_b=0.0):
    """Its layers, weights drawn by a declared initializer."""
    layers = remember(network, images)
    generator = torch.Generator().manual_seed(0)
    gaussian(sigma_w, sigma_b)(layers, generator)
    return layers


def convolutions(**settings):
    torch.manual_seed(0)
    odd = nn.Conv2d(4, 4, **{"kernel_size": 3, "padding": 1, "padding_mode": "circular"} | settings)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
        nn.Tanh(),
        odd,
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"padding": 0}, "otherwise padded conv"),
        ({"padding": 2}, "otherwise padded conv"),
        ({"dilation": 2, "padding": 2}, "dilated conv"),
        ({"groups": 2}, "grouped conv"),
        ({"kernel_size": (3, 5), "padding": (1, 2)}, "oblong conv"),
        ({"stride": (1, 2)}, "oblong conv"),
        ({"kernel_size": 2, "padding": 1}, "even conv"),
    ],
)
def test_a_convolution_that_is_not_known_is_named(settings, word):
    images = torch.randn(8, 3, 8, 8)
    layers = drawn(convolutions(**settings), images)
    found = predict_network(layers, images, 8)
    assert f"no mean-field result for {word} weights" in found.reason
    assert np.isnan(found.log_q).all()


def test_a_convolution_that_is_known_is_predicted():
    images = torch.randn(8, 3, 8, 8)
    for settings in ({}, {"padding": "same"}, {"padding_mode": "zeros"}):
        found = predict_network(drawn(convolutions(**settings), images), images, 8)
        assert np.isfinite(found.log_q[:2]).all()


class Sum(nn.Module):
    """Layers whose outputs are added, without a word about branches."""

    def __init__(self):
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(9, 9) for _ in range(4))
        self.readout = nn.Linear(9, 3)

    def forward(self, x):
        x = x.flatten(1)
        for each in self.maps:
            x = x + torch.tanh(each(x))
        return self.readout(x)


def test_a_residual_sum_is_found_and_not_predicted():
    images = torch.randn(8, 1, 3, 3)
    found = predict_network(drawn(Sum(), images), images, 8)
    assert "residual branches" in found.reason


def normed(norm, where=(0, 1, 2, 3, 4, 5)):
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    for index in range(6):
        layers += [nn.Linear(60, 60)]
        layers += [norm(60)] if index in where else []
        layers += [nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(60, 5))


@pytest.mark.parametrize(
    ("norm", "word"),
    [
        (lambda n: nn.GroupNorm(4, n), "group norm"),
        (lambda n: scaled(nn.LayerNorm(n)), "rescaled norm"),
        (lambda n: scaled(nn.BatchNorm1d(n)), "rescaled norm"),
    ],
)
def test_a_normalization_that_is_not_known_is_named(norm, word):
    images = torch.randn(16, 1, 6, 10)
    found = predict_network(drawn(normed(norm), images), images, 16)
    assert f"no mean-field result for {word}" in found.reason


def scaled(norm):
    nn.init.constant_(norm.weight, 0.5)
    return norm


@pytest.mark.parametrize("networks", [0, 64])
@pytest.mark.parametrize(
    ("norm", "where"),
    [
        (nn.LayerNorm, (0, 2, 4)),
        (nn.RMSNorm, (1, 2)),
        (lambda n: nn.LayerNorm(n, eps=0.5), (0, 1, 2, 3, 4, 5)),
        (lambda n: nn.BatchNorm1d(n, eps=0.5), (0, 1, 2, 3, 4, 5)),
        (nn.BatchNorm1d, (1, 3)),
    ],
)
def test_norms_in_some_layers_and_a_large_epsilon(norm, where, networks):
    """The mean logarithms of 40 networks, within 4 of their standard errors (and 5 % where the
    theory's are of expectations, at width 60).
    """
    images = torch.randn(64, 1, 6, 10)
    logs = []
    for seed in range(40):
        network = normed(norm, where)
        layers = remember(network, images)
        gaussian(0.8, 0.1)(layers, torch.Generator().manual_seed(seed))
        columns = observe(network, [(images, torch.randint(5, (64,)))]).columns
        logs.append(
            [np.log(columns["forward_second_moment"]), 2 * np.log(columns["backprop_norm"])]
        )
    q, delta = np.array(logs).transpose(1, 0, 2)
    delta = delta - delta[:, -2:-1]
    found = predict_network(layers, images, 64, networks=networks)
    batch = any(spec.normalization == "batch" for spec in layers_of(network))
    if batch and networks == 0:
        assert found.fluctuations is None
        assert found.reason
        return
    shifts = [0.0, 0.0]
    if found.fluctuations is not None:
        shifts = [found.fluctuations.q_shift, found.fluctuations.delta_shift]
    for measured, predicted in ((q, found.log_q + shifts[0]), (delta, found.log_delta + shifts[1])):
        error = measured.std(0) / math.sqrt(40)
        drawn_error = measured.std(0) / math.sqrt(networks) if networks else 0.05
        off = np.abs(measured.mean(0) - predicted)[:-1]
        assert (off <= 4 * np.hypot(error, drawn_error)[:-1] + 1e-9).all()


def test_wide_networks_are_drawn_with_fewer_examples_or_not_at_all(make_config):
    """4 operations a weight and example, 1e9 in all: 31 examples at depth 50 and width 400, 12 at
    depth 20 and width 1,000, which are too few.
    """
    images = torch.randn(64, 1, 28, 28)
    for depth, width, networks in ((50, 400, 2), (20, 1000, 0)):
        config = make_config(f"model.depth={depth}", f"model.width={width}")
        layers = layers_of(build_network(config, (1, 28, 28), 10))
        found = predict_network(layers, images, 64, networks=2)
        assert found.networks == networks
    config = make_config("model.depth=50", "model.width=400", "normalization=batch")
    layers = layers_of(build_network(config, (1, 28, 28), 10))
    assert predict_network(layers, images, 64, networks=2).networks == 0


def test_the_limit_counts_epsilon():
    """relu at σ_w = 0.003 under layer norm: h² is 4.5e-6, less than half of ε; measured 0.65² a
    layer. Under batch norm there is no formula, and none is printed.
    """
    relu = phi_of("relu")
    growth, q_star, phase = limit_of(relu, "layer", 0.003, 0.0, 64, epsilon=1e-5)
    share = q_star / (q_star + 1e-5)
    assert q_star == pytest.approx(0.003**2 * share / 2, rel=1e-6, abs=1e-20)
    assert growth == pytest.approx(0.003**2 / 2 / (q_star + 1e-5), rel=1e-9)
    assert phase == "ordered"
    assert limit_of(relu, "batch", 0.003, 0.0, 64, epsilon=1e-5) is None
    assert limit_of(relu, "batch", 1.0, 0.0, 64, epsilon=1e-5) is not None


# ---- E9: activations of one's own ----------------------------------------------------------------


def test_readmes_snake_is_integrated():
    """φ = z + sin² z: E φ'² = 1 + (1 - e^(-8q))/2, for the mixed term is odd; so χ₁ → 3/2 under
    LeCun and 3 under He, where lengths grow for ever.
    """
    snake = Activation("snake", lambda: Pointwise(lambda z: z + torch.sin(z) ** 2))
    for q in (0.1, 1.0, 30.0, 1e3, 1e8, 1e20):
        expected = 1 + 0.5 * (1 - math.exp(-8 * q))
        assert slope_moment(snake, q) == pytest.approx(expected, rel=1e-7)
    assert limit(snake, 1.0, 0.0).chi_1 == pytest.approx(1.5, rel=1e-6)
    assert limit(snake, math.sqrt(2), 0.0).chi_1 == pytest.approx(3.0, rel=1e-6)


@pytest.mark.parametrize("q", [0.5, 1.0, 10.0, 1e3])
def test_kinks_that_nobody_named_cost_what_the_estimate_says(q):
    """Hardswish with a kink at 0 only, against all three."""
    named = Activation("hardswish", nn.Hardswish, kinks=(-3.0, 0.0, 3.0))
    unnamed = Activation("hardswish", nn.Hardswish, kinks=(0.0,))
    estimate = error_estimate(lambda h: unnamed.phi_prime(h) ** 2, q, (0.0,))
    off = abs(slope_moment(unnamed, q) - slope_moment(named, q))
    assert off <= 3 * estimate + 1e-12
    assert off <= 2e-4 * slope_moment(named, q)
    assert second_moment(unnamed, q) == pytest.approx(second_moment(named, q), rel=1e-6)


@pytest.mark.parametrize(
    ("between", "word"),
    [
        (lambda: [nn.Dropout(0.5)], "dropout"),
        (lambda: [nn.Unflatten(1, (6, 10)), nn.MaxPool1d(2), nn.Flatten()], "max_pool1d"),
        (lambda: [Times()], "Times"),
        (lambda: [nn.Dropout(0.0)], None),
    ],
)
def test_what_stands_between_layers_is_not_passed_over(between, word):
    torch.manual_seed(0)
    parts = [nn.Flatten(), nn.Linear(60, 60), nn.Tanh(), *between(), nn.LazyLinear(60), nn.Tanh()]
    network = nn.Sequential(*parts, nn.Linear(60, 5))
    images = torch.randn(16, 1, 6, 10)
    network(images)
    found = predict_network(drawn(network, images), images, 16)
    assert (found.reason is None) == (word is None)
    assert word is None or f"{word}: no mean-field result" in found.reason


class Times(nn.Module):
    def forward(self, x):
        return 2 * x
