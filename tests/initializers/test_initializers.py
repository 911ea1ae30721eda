"""Each initializer against its own definition, on drawn weights; the declared σ_w against the drawn
standard deviation.
"""

import math

import pytest
import torch
from scipy import stats

from builders import convnet, critical, fan_scaled, gaussian, identity, map_of, mlp, orthogonal
from isometry import activations
from isometry import initializers as init
from isometry.layers.discover import layer_map


def draw(initializer, network=None, seed=0):
    network = network or mlp((1, 20, 20), 10, activations.relu(), depth=4, width=300)
    layers = map_of(network)
    initializer(layers, torch.Generator().manual_seed(seed))
    return layers


STANDARD_DEVIATIONS = [
    (gaussian(sigma_w=1.5, sigma_b=0.2), lambda n_in, n_out: 1.5 / math.sqrt(n_in)),
    (gaussian(sigma_w=1.5, distribution="uniform"), lambda n_in, n_out: 1.5 / math.sqrt(n_in)),
    (init.Normal(0.3, 0.0), lambda n_in, n_out: 0.3),
    (fan_scaled("fan_in"), lambda n_in, n_out: math.sqrt(1 / n_in)),
    (fan_scaled("fan_avg"), lambda n_in, n_out: math.sqrt(2 / (n_in + n_out))),
    (
        fan_scaled("fan_avg", distribution="uniform"),
        lambda n_in, n_out: math.sqrt(2 / (n_in + n_out)),
    ),
    (fan_scaled("fan_in", gain=math.sqrt(2)), lambda n_in, n_out: math.sqrt(2 / n_in)),
    (fan_scaled("fan_out", gain=math.sqrt(2)), lambda n_in, n_out: math.sqrt(2 / n_out)),
    (fan_scaled("fan_in", distribution="truncated"), lambda n_in, n_out: math.sqrt(1 / n_in)),
    (init.Uniform(0.3, 0.0), lambda n_in, n_out: 0.3 / math.sqrt(3)),
    (init.TorchDefault(), lambda n_in, n_out: math.sqrt(1 / (3 * n_in))),
    (orthogonal(gain=1.2), lambda n_in, n_out: 1.2 / math.sqrt(max(n_in, n_out))),
    (critical(), lambda n_in, n_out: math.sqrt(2 / n_in)),
    (critical(distribution="uniform"), lambda n_in, n_out: math.sqrt(2 / n_in)),
    (critical(distribution="orthogonal"), lambda n_in, n_out: math.sqrt(2 / max(n_in, n_out))),
]


@pytest.mark.parametrize(("initializer", "std"), STANDARD_DEVIATIONS)
def test_standard_deviation_and_declared_sigma_w(initializer, std):
    for spec in draw(initializer):
        weight = spec.weight
        expected = std(spec.fan_in, spec.fan_out)
        # 3,000 to 120,000 entries: the standard error of a standard deviation is under 1/√6000
        assert weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * weight.numel()))
        assert spec.sigma_w == pytest.approx(expected * math.sqrt(spec.fan_in), rel=1e-6)
        assert abs(weight.mean().item()) < 5 * expected / math.sqrt(weight.numel())


@pytest.mark.parametrize(
    ("initializer", "shape"),
    [(fan_scaled(), "norm"), (fan_scaled(distribution="uniform"), "uniform")],
)
def test_shape_of_the_distribution(initializer, shape):
    weight = draw(initializer)[1].weight.flatten()[:20000]
    standardized = (weight / weight.std()).numpy(force=True)
    parameters = (0, 1) if shape == "norm" else (-math.sqrt(3), 2 * math.sqrt(3))
    assert stats.kstest(standardized, shape, parameters).pvalue > 1e-3


def test_biases_follow_sigma_b_and_are_zero_by_default():
    assert all(not spec.bias.any() for spec in draw(fan_scaled()))
    layers = draw(
        gaussian(1.0, sigma_b=0.5), mlp((1, 4, 4), 10, activations.relu(), depth=3, width=4000)
    )
    assert layers[1].bias.std().item() == pytest.approx(0.5, rel=0.06)
    assert layers[1].sigma_b == 0.5


def test_torch_default_is_torchs_own():
    layer = draw(init.TorchDefault())[1]
    own = torch.nn.Linear(300, 300)
    assert layer.weight.abs().max().item() == pytest.approx(own.weight.abs().max().item(), rel=1e-3)
    assert layer.bias.abs().max().item() == pytest.approx(own.bias.abs().max().item(), rel=0.05)


def test_orthogonal_has_all_singular_values_at_the_gain():
    for spec in draw(orthogonal(gain=1.7)):
        values = torch.linalg.svdvals(spec.weight.double())
        torch.testing.assert_close(values, torch.full_like(values, 1.7), rtol=1e-5, atol=0)


def test_deep_orthogonal_linear_network_is_an_isometry():
    network = mlp((1, 10, 10), 100, activations.linear(), depth=100, width=100).double()
    draw(orthogonal(), network)
    jacobian = torch.func.jacrev(lambda x: network(x.view(1, 1, 10, 10))[0])(
        torch.randn(100, dtype=torch.float64)
    )
    assert torch.linalg.svdvals(jacobian).sub(1).abs().max() < 1e-5


def test_delta_orthogonal_convolution_preserves_the_norm_of_a_circular_image():
    network = convnet((4, 8, 8), 4, activations.linear(), depth=6, channels=16, stages=1)
    draw(init.DeltaOrthogonal(1.0, 0.0), network)
    x = torch.randn(3, 4, 8, 8)
    h = x
    for layer in network.layers[:-1]:
        h = layer(h)
    torch.testing.assert_close(h.norm(), x.norm())
    kernel = network.layers[1].weighted.weight
    assert kernel[:, :, 1, 1].any()
    assert kernel.count_nonzero() == kernel[:, :, 1, 1].count_nonzero()


def test_delta_orthogonal_refuses_what_it_cannot_do():
    with pytest.raises(init.InitializerError, match="model=convnet"):
        draw(init.DeltaOrthogonal(1.0, 0.0))
    with pytest.raises(init.InitializerError, match="4 channels to 2"):
        draw(
            init.DeltaOrthogonal(1.0, 0.0),
            convnet((4, 8, 8), 4, activations.relu(), depth=3, channels=2),
        )


def test_critical_needs_a_hidden_layer():
    with pytest.raises(init.InitializerError, match=r"model\.depth=1"):
        draw(critical(), mlp((1, 4, 4), 3, activations.tanh(), depth=1))


def test_same_seed_same_weights_other_seed_other_weights():
    a, b, c = (draw(fan_scaled(), seed=seed)[1].weight for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_truncated_weights_stay_within_two_deviations():
    weight = draw(fan_scaled(distribution="truncated"))[1].weight
    assert weight.abs().max().item() <= 2 / math.sqrt(300) / 0.8796
    assert weight.abs().max().item() > 1.99 / math.sqrt(300) / 0.8796


def test_sparse_rows_have_their_number_of_connections():
    for spec in draw(init.Sparse(15, 1.0, 0.0)):
        assert (spec.weight.count_nonzero(1) == 15).all()
        kept = spec.weight[spec.weight != 0]
        assert kept.std().item() == pytest.approx(1.0, rel=5 / math.sqrt(2 * len(kept)))
        assert spec.sigma_w == pytest.approx(math.sqrt(15))
    # four inputs only
    assert (
        draw(init.Sparse(15, 1.0, 0.0), mlp((1, 2, 2), 3, activations.tanh(), depth=2))[0].sigma_w
        == 2.0
    )


def test_identity_is_one_and_refuses_other_shapes():
    layers = draw(identity(gain=0.5), mlp((1, 3, 3), 4, activations.tanh(), depth=3, width=9))
    assert torch.equal(layers[0].weight, 0.5 * torch.eye(9))
    assert layers[-1].sigma_w == 1.0
    with pytest.raises(init.InitializerError, match=r"model\.width=9"):
        draw(identity(), mlp((1, 3, 3), 4, activations.tanh(), depth=3, width=8))
    convolution = convnet((3, 4, 4), 2, activations.tanh(), depth=2, channels=3, stages=1)
    draw(identity(), convolution)
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(convolution.layers[0].weighted(x), x)


@pytest.mark.parametrize(
    "initializer",
    [fan_scaled(gain="auto"), orthogonal(gain="auto"), critical()],
    ids=["fan_scaled", "orthogonal", "critical"],
)
def test_an_initializer_used_again_is_that_of_the_second_network(initializer):
    """σ_w with χ₁ = 1: √2 for relu, 1 for tanh with σ_b = 0."""
    before = dict(vars(initializer))
    for activation, scale in ((activations.relu(), math.sqrt(2)), (activations.tanh(), 1.0)):
        network = mlp((1, 10, 10), 10, activation, depth=4, width=100)
        hidden = draw(initializer, network)[:-1]
        assert [spec.sigma_w for spec in hidden] == pytest.approx([scale] * 3, rel=1e-4)
    assert vars(initializer) == before


def test_critical_takes_the_biases_that_go_with_the_activation():
    """gelu: σ_w² = 1.98306, σ_b² = 0.17292 (Roberts, Yaida & Hanin 2022, sec. 5.3.4); where layers
    have no biases, the point without.
    """
    network = mlp((1, 10, 10), 10, activations.gelu(), depth=4, width=400)
    hidden = draw(critical(sigma_b="auto"), network)[1:-1]
    assert [spec.sigma_w**2 for spec in hidden] == pytest.approx([1.98306] * 2, rel=1e-5)
    assert [spec.sigma_b**2 for spec in hidden] == pytest.approx([0.17292] * 2, rel=1e-4)
    # of 800 draws the variance lies within 4 of its standard errors
    drawn = torch.cat([spec.bias.detach() for spec in hidden]).var()
    assert float(drawn) == pytest.approx(0.17292, rel=4 * math.sqrt(2 / 800))
    without = mlp((1, 10, 10), 10, activations.gelu(), depth=4, width=9, bias=False)
    assert [spec.sigma_w for spec in draw(critical(sigma_b="auto"), without)[:-1]] == [2.0] * 3


def test_the_projections_of_attention_are_drawn_one_by_one():
    """Their fans are those of a matrix, not of the three that are stacked."""
    torch.manual_seed(0)
    attention = torch.nn.MultiheadAttention(64, 4)
    x = torch.randn(5, 2, 64)
    layers = layer_map(attention, x, x, x)
    assert [(spec.fan_in, spec.fan_out) for spec in layers] == [(64, 64), (64, 64)]
    orthogonal(1.0)(layers, torch.Generator().manual_seed(0))
    for matrix in attention.in_proj_weight.detach().chunk(3):
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(64), rtol=0, atol=1e-5)
    fan_scaled("fan_avg", 1.0)(layers, torch.Generator().manual_seed(0))
    # Glorot & Bengio 2010, eq. 12; the sample of n has a relative error of 1/sqrt(2n)
    spread = attention.in_proj_weight.std().item()
    assert spread == pytest.approx(1 / 8, rel=5 / math.sqrt(2 * 3 * 64**2))
