import pytest
import torch
from torch import nn

from builders import convnet, map_of, mlp
from isometry import activations
from isometry.networks.blocks import Layer
from isometry.networks.convnet import stage_plan


def test_layer_map_of_an_mlp():
    layers = map_of(mlp((1, 28, 28), 10, activations.tanh(), depth=4, width=50))
    assert [spec.index for spec in layers] == [1, 2, 3, 4]
    assert [spec.kind for spec in layers] == ["hidden"] * 3 + ["readout"]
    assert [(spec.fan_in, spec.fan_out) for spec in layers] == [
        (784, 50),
        (50, 50),
        (50, 50),
        (50, 10),
    ]
    assert layers[0].activation.name == "tanh"
    assert layers[-1].activation is None


def test_names_of_the_layer_map_lead_to_the_modules():
    network = convnet((3, 8, 8), 10, activations.relu(), depth=4, channels=4)
    for spec in map_of(network):
        assert network.get_submodule(spec.name).weighted is spec.module


def test_mlp_computes_the_textbook_formula():
    torch.manual_seed(0)
    network = mlp((1, 4, 4), 3, activations.tanh(), depth=3, width=5).double()
    x = torch.randn(7, 1, 4, 4, dtype=torch.float64)
    (w1, b1), (w2, b2), (w3, b3) = [
        (layer.weighted.weight, layer.weighted.bias) for layer in network.layers
    ]
    expected = torch.tanh(torch.tanh(x.flatten(1) @ w1.T + b1) @ w2.T + b2) @ w3.T + b3
    torch.testing.assert_close(network(x), expected, rtol=1e-13, atol=0)


def test_depth_one_is_a_linear_classifier():
    (spec,) = map_of(mlp((1, 4, 4), 3, activations.tanh(), depth=1))
    assert spec.kind == "readout"
    assert spec.fan_in == 16


def test_stage_plan_halves_the_image_at_each_stage_but_the_first():
    assert stage_plan(6, 8, 3, 2) == ([8, 8, 16, 16, 32, 32], [1, 1, 2, 1, 2, 1])
    assert stage_plan(3, 8, 1, 2) == ([8, 8, 8], [1, 1, 1])


def test_convnet_fans_and_shapes():
    network = convnet((3, 16, 16), 10, activations.relu(), depth=5, channels=8, stages=2)
    first, *_, readout = map_of(network)
    assert (first.fan_in, first.fan_out, first.map) == (27, 72, "conv")
    assert (readout.fan_in, readout.map) == (16, "linear")
    assert network(torch.randn(2, 3, 16, 16)).shape == (2, 10)


def test_circular_padding_commutes_with_shifts_and_zero_padding_does_not():
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    for padding, equal in (("circular", True), ("zeros", False)):
        torch.manual_seed(0)
        network = convnet(
            (1, 8, 8), 4, activations.tanh(), depth=4, channels=3, stages=1, padding=padding
        ).double()
        assert torch.allclose(network(x), network(x.roll(3, 2)), atol=1e-12) is equal


@pytest.mark.parametrize("kind", ["layer", "rms", "batch"])
@pytest.mark.parametrize("conv", [False, True])
def test_normalizations_have_the_moments_they_promise(kind, conv):
    torch.manual_seed(0)
    weighted = nn.Conv2d(2, 6, 3, padding=1) if conv else nn.Linear(20, 30)
    x = 3 + 2 * torch.randn(64, *((2, 8, 8) if conv else (20,)))
    z = Layer(weighted, None, kind)(x)
    if kind == "batch":
        moments = z.transpose(0, 1).flatten(1)
        torch.testing.assert_close(moments.mean(1), torch.zeros(len(moments)), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            moments.var(1, correction=0), torch.ones(len(moments)), atol=1e-3, rtol=0
        )
    else:
        flat = z.flatten(1)
        torch.testing.assert_close(flat.square().mean(1), torch.ones(64), atol=1e-3, rtol=0)
        if kind == "layer":
            torch.testing.assert_close(flat.mean(1), torch.zeros(64), atol=1e-5, rtol=0)


def test_layer_norm_is_torchs_on_vectors():
    torch.manual_seed(0)
    x = torch.randn(5, 12)
    weighted = nn.Linear(12, 7)
    torch.testing.assert_close(Layer(weighted, None, "layer")(x), nn.LayerNorm(7)(weighted(x)))
