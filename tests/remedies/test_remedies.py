"""Each remedy against what its paper says, never against our own output."""

import math

import pytest
import torch
from torch import nn

from commands import composed
from isometry.errors import UserError
from isometry.layers.discover import layers_of
from isometry.networks.attention import Attention, FeedForward
from isometry.networks.residual import Residual
from isometry.training.build import build_classifier, build_network

HE = "initializer=he_normal"


def built(*overrides, shape=(1, 8, 8)):
    return build_network(composed(*overrides), shape, 10).double()


def residuals(network):
    return [part for part in network.modules() if isinstance(part, Residual)]


BLOCKS = {
    "mlp": ["model=residual_mlp", "model.depth=10", "model.width=16"],
    "resnet": ["model=resnet", "model.depth=8", "normalization=none"],
    "pre_resnet": ["model=resnet", "model.depth=8", "normalization=none", "model.order=pre"],
    "vit": ["model=vit", "model.patch=4", "normalization=none"],
}


@pytest.mark.parametrize("remedy", ["rezero", "skipinit", "fixup"])
@pytest.mark.parametrize("model", BLOCKS)
def test_blocks_are_the_identity_at_initialization(model, remedy):
    """Bachlechner et al. 2021, eq. 1; De & Smith 2020, sec. 4; Zhang et al. 2019, sec. 3 (behind
    the sum of post-activation blocks stands relu, which leaves what it has passed).
    """
    if (model, remedy) == ("vit", "fixup"):
        pytest.skip("refused, see below")
    network = built(*BLOCKS[model], f"remedy={remedy}", HE)
    for residual in residuals(network):
        if residual.shortcut is None:
            shape = (3, 4, 64) if model == "vit" else (3, *input_of(residual))
            x = torch.rand(shape, dtype=torch.float64)
            assert torch.equal(residual(x), x)


def input_of(residual):
    first = next(p for p in residual.modules() if isinstance(p, nn.Linear | nn.Conv2d))
    return (first.in_features,) if isinstance(first, nn.Linear) else (first.in_channels, 4, 4)


@pytest.mark.parametrize("remedy", ["rezero", "skipinit"])
def test_the_learned_scale_is_learned(remedy):
    network = built(*BLOCKS["mlp"], f"remedy={remedy}", "remedy.start=0.25")
    network(torch.randn(4, 1, 8, 8).double()).square().mean().backward()
    for residual in residuals(network):
        assert residual.scale.item() == 0.25
        assert residual.scale.grad is not None


@pytest.mark.parametrize("block_depth", [2, 3])
def test_fixup_scales_branches_by_the_papers_exponent(block_depth):
    """L^(-1/(2m-2)) on all layers of a branch but the last, which is 0; the readout is 0."""
    size = [f"model.depth={2 + 6 * block_depth}", f"model.block_depth={block_depth}"]
    settings = ["model=residual_mlp", *size, "model.width=200", HE]
    network, plain = built(*settings, "remedy=fixup"), built(*settings)
    factor = 6 ** (-1 / (2 * block_depth - 2))
    pairs = zip(layers_of(network), layers_of(plain), strict=True)
    for spec, base in pairs:
        last = spec.branch is not None and spec.name.endswith(f"{block_depth - 1}.weighted.1")
        if last or spec.kind == "readout":
            assert not spec.weight.any()
        elif spec.branch is not None:
            torch.testing.assert_close(spec.weight, factor * base.weight, rtol=1e-6, atol=0)
        else:
            torch.testing.assert_close(spec.weight, base.weight)


def test_fixup_adds_the_papers_scalars():
    """A factor for each branch; a number before each layer and each activation."""
    network = built(*BLOCKS["resnet"], "remedy=fixup", HE)
    scalars = [p for p in network.parameters() if p.dim() == 0]
    factors = len(residuals(network))
    layers = len(layers_of(network))
    activations = 1 + 2 * factors
    assert len(scalars) == factors + layers + activations


def test_gpt2_scales_what_enters_the_trunk():
    """1/√(2L), L blocks (Radford et al. 2019, sec. 2.3)."""
    settings = ["model=vit", "model.patch=4", "model.depth=3"]
    network, plain = built(*settings, "remedy=depth_scaled"), built(*settings)
    ends = [part.out for part in network.modules() if isinstance(part, Attention)]
    ends += [part.out.weighted for part in network.modules() if isinstance(part, FeedForward)]
    ids = {id(end.weight) for end in ends}
    assert len(ids) == 6
    for mine, base in zip(network.parameters(), plain.parameters(), strict=True):
        factor = 6**-0.5 if id(mine) in ids else 1.0
        torch.testing.assert_close(mine, factor * base, rtol=1e-6, atol=0)


def test_deepnorm_has_the_papers_constants():
    """α = (2N)^(1/4), β = (8N)^(-1/4) (Wang et al. 2022, fig. 2)."""
    settings = ["model=vit", "model.patch=4", "model.depth=4", "model.norm_place=post"]
    network, plain = built(*settings, "remedy=deepnorm"), built(*settings)
    assert [part.carry for part in residuals(network)] == [pytest.approx(8**0.25)] * 8
    for mine, base in zip(layers_of(network), layers_of(plain), strict=True):
        scaled = any(word in mine.name for word in ("value", "out", "inner"))
        ratio = float(mine.weight.norm() / base.weight.norm())
        assert ratio == pytest.approx(32**-0.25 if scaled else 1.0, rel=1e-5)


def test_tfixup_has_the_papers_constants():
    """0.67 N^(-1/4) on v, w and the feed-forward maps, (9N)^(-1/4) on embeddings (Huang et al.
    2020, sec. 3.2).
    """
    settings = ["model=decoder", "model.depth=4", "normalization=none", "model.width=128"]
    config = composed(*settings, "remedy=tfixup")
    network = build_network(config, (9,), 12, 12)
    plain = build_network(composed(*settings), (9,), 12, 12)
    factor = 0.67 * 4**-0.25
    for mine, base in zip(layers_of(network)[1:], layers_of(plain)[1:], strict=True):
        scaled = any(word in mine.name for word in ("value", "out", "inner"))
        ratio = float(mine.weight.norm() / base.weight.norm())
        assert ratio == pytest.approx(factor if scaled else 1.0, rel=1e-5)
    embedding = network.layers[0].into.weight.detach()
    # 1,536 Gaussian numbers: their deviation is known to 1.8 %
    assert float(embedding.std()) == pytest.approx((9 * 4) ** -0.25 * 128**-0.5, rel=0.06)


@pytest.mark.parametrize("model", ["mlp", "convnet"])
def test_standardized_weights_have_mean_0_and_the_activations_gain(model):
    """Brock et al. 2021: γ = √(2/(1 - 1/π)) for relu."""
    network = built(f"model={model}", "activation=relu", "remedy=weight_standardization")
    maps = [p for p in network.modules() if isinstance(p, nn.Linear | nn.Conv2d)]
    for index, part in enumerate(maps[:-1]):
        rows = part.weight.flatten(1)
        gain = math.sqrt(2 / (1 - 1 / math.pi)) if index else 1.0
        torch.testing.assert_close(rows.mean(1), torch.zeros(len(rows)).double(), atol=1e-7, rtol=0)
        norms = rows.norm(dim=1)
        torch.testing.assert_close(norms, torch.full_like(norms, gain), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("depth", "slope"), [(20, 0.18138), (30, 0.30269), (50, 0.43052), (100, 0.57044)]
)
def test_tats_slopes_are_the_papers(depth, slope):
    """Zhang, Botev & Martens 2022, η = 0.9: to the five digits printed."""
    network = built("model=mlp", f"model.depth={depth + 1}", "activation=relu", "remedy=tat")
    phi = layers_of(network)[0].activation
    found = float(phi.phi_prime(-1.0) / phi.phi_prime(1.0))
    assert found == pytest.approx(slope, abs=6e-6)
    assert float(phi.phi_prime(1.0)) == pytest.approx(math.sqrt(2 / (1 + slope**2)), rel=1e-5)


def test_tat_correlates_two_orthogonal_inputs_to_eta():
    """Measured on a wide network, not on the map it was solved with."""
    settings = ["model=mlp", "model.depth=21", "model.width=2000", "initializer=orthogonal"]
    network = built(*settings, "activation=relu", "remedy=tat")
    x = torch.eye(64, dtype=torch.float64)[:2] * 8
    h = network.layers[0].weighted(x)
    for layer in network.layers[1:-1]:
        h = layer.weighted(network.layers[0].activation(h))
    h = network.layers[0].activation(h)
    found = nn.functional.cosine_similarity(h[0], h[1], dim=0).item()
    # one network of width 2,000 scatters by about 0.005
    assert found == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("name", ["tanh", "softplus", "gelu", "silu"])
def test_a_shaped_activation_has_the_four_moments(name):
    """Martens et al. 2021, sec. 5, by sums over a fine grid: E φ̂ = 0, E φ̂² = 1, E z φ̂ φ̂' = 1 and
    (E φ̂'²)^depth = ζ.
    """
    network = built("model=mlp", "model.depth=31", f"activation={name}", "remedy=dks")
    phi = layers_of(network)[0].activation
    z = torch.linspace(-12, 12, 240_001, dtype=torch.float64)
    weight = torch.exp(-0.5 * z**2)
    weight /= weight.sum()
    value, slope = (torch.from_numpy(f(z.numpy())) for f in (phi.phi, phi.phi_prime))
    moments = [(weight * v).sum() for v in (value, value**2, z * value * slope, slope**2)]
    expected = [0.0, 1.0, 1.0, 1.5 ** (1 / 30)]
    assert [float(m) for m in moments] == pytest.approx(expected, abs=1e-7)


def test_mup_begins_and_learns_by_the_papers_table():
    """Yang et al. 2021, table 3, at four times the base width."""
    settings = ["model=mlp", "model.depth=4", "model.width=256", "initializer=lecun_normal"]
    rates = {"sgd": (4.0, 1.0, 0.25), "adam": (1.0, 0.25, 0.25), "adamw": (1.0, 0.25, 0.25)}
    plain = built(*settings)
    for optimizer, (into, hidden, out) in rates.items():
        words = [*settings, "remedy=mup", f"optimizer={optimizer}", "optimizer.lr=0.1"]
        config = composed(*words)
        network = build_network(config, (1, 8, 8), 10)
        made = build_classifier(config, network).make_optimizer(network.parameters())
        rate = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
        assert len(rate) == len(list(network.parameters()))
        first, *middle, last = network.layers
        assert rate[id(first.weighted.weight)] == pytest.approx(0.1 * into)
        assert rate[id(last.weighted.bias)] == pytest.approx(0.1)
        assert rate[id(first.weighted.bias)] == pytest.approx(0.1 * into)
        found = [rate[id(each.weighted.weight)] for each in middle]
        assert found == pytest.approx([0.1 * hidden] * 2)
        assert rate[id(last.weighted.weight)] == pytest.approx(0.1 * out)
        readout = plain.layers[-1].weighted.weight.float()
        torch.testing.assert_close(last.weighted.weight, readout / 2)


def test_mup_divides_attention_by_the_units_of_a_head():
    scales = []
    for width in (64, 128, 256):
        network = built("model=vit", "model.patch=4", f"model.width={width}", "remedy=mup")
        scales.append(next(p.scale for p in network.modules() if isinstance(p, Attention)))
    assert scales == pytest.approx([16**-0.5, 16**-0.5 / 2, 16**-0.5 / 4])


def test_standardized_weights_are_those_of_the_initializer():
    weights = []
    for name in ("he_normal", "orthogonal"):
        words = [f"initializer={name}", "initializer.sigma_b=0.0", "remedy=weight_standardization"]
        network = built(*words)
        weights.append(network.layers[2].weighted.weight)
        assert not network.layers[2].weighted.bias.any()
    assert not torch.allclose(*weights)


def test_mup_of_a_recurrence():
    config = composed("model=lstm", "model.width=256", "remedy=mup", "optimizer=adam")
    network = build_network(config, (1, 8, 8), 10)
    made = build_classifier(config, network).make_optimizer(network.parameters())
    rate = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
    into, own = network.recurrence.weight_ih_l0, network.recurrence.weight_hh_l0
    assert rate[id(into)] == pytest.approx(config.optimizer.lr)
    assert rate[id(own)] == pytest.approx(config.optimizer.lr / 4)


SANDWICH = ["model=vit", "model.patch=4", "model.norm_place=sandwich"]
TWENTY = ["model.depth=21", "activation=relu"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["remedy=rezero"], "remedy=rezero: is for residual branches"),
        (["remedy=fixup", "model=resnet"], "remedy=fixup: stands in place of a normalization"),
        (["remedy=fixup", "model=residual_mlp", "model.block_depth=1"], "2 layers or more"),
        (["remedy=deepnorm", "model=vit", "model.patch=4"], "model.norm_place=post"),
        (["remedy=deepnorm"], "is for transformers"),
        (["remedy=tfixup", "model=vit", "model.patch=4"], "normalization=none"),
        (["remedy=tat"], "takes relu and leaky_relu, not tanh"),
        (["remedy=tat", "activation=relu", "model.depth=3"], "correlate inputs less"),
        (["remedy=dks", "activation=relu"], "relu has no shape"),
        (["remedy=dks", "model=residual_mlp"], "without shortcuts"),
        (["remedy=rezero", "model=residual_mlp", "model.scale=auto"], "leave model.scale=1"),
        (["remedy=fixup", "model=vit", "model.patch=4", "normalization=none"], "remedy=tfixup"),
        (["remedy=depth_scaled", "model=resnet"], "is undone by the normalization"),
        (["remedy=depth_scaled", *SANDWICH], "is undone by the normalization"),
        (["remedy=weight_standardization", "model=rnn"], "here are none"),
        (["remedy=weight_standardization", "model=vit", "model.patch=4"], "transformers"),
        (["remedy=tat", "activation=relu", "model=highway"], "without shortcuts, gates"),
        (["remedy=tat", *TWENTY, HE], "variance 1/fan_in"),
        (["remedy=mup", "model=vgg"], "networks of one width"),
        (["remedy=mup", "model=vit", "model.attention_scale=0.1", "model.patch=4"], "of attention"),
        (["remedy=dks", "normalization=layer"], "stands in place of a normalization"),
    ],
)
def test_what_a_remedy_does_not_suit_is_named(overrides, words):
    with pytest.raises(UserError, match=words):
        built(*overrides)
