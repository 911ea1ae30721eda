"""The layer map of any network: what is found, against what its author wrote."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from commands import composed
from isometry.errors import UserError
from isometry.layers.discover import layer_map
from isometry.training.build import build_network
from zoo import ZOO, build

# layers; of some of them (by name) what is written down here
EXPECTED = {
    "resnet18": {
        "conv1": ("conv", "batch", "relu", 1, (147, 3136)),
        "layer1.0.conv1": ("conv", "batch", "relu", 1, (576, 576)),
        "layer1.0.conv2": ("conv", "batch", None, 1, (576, 576)),
        "layer2.0.downsample.0": ("conv", "batch", None, 1, (64, 128)),
        "fc": ("linear", "none", None, 1, (512, 3)),
    },
    "encoder": {
        "encoder.layers.0.self_attn.in_proj": ("linear", "none", None, 1, (8, 8)),
        "encoder.layers.0.self_attn.out_proj": ("linear", "none", None, 1, (8, 8)),
        "encoder.layers.0.linear1": ("linear", "none", "relu", 1, (8, 16)),
        "encoder.layers.1.linear2": ("linear", "none", None, 1, (16, 8)),
        "readout": ("linear", "none", None, 1, (8, 3)),
    },
    "vit": {
        "conv_proj": ("conv", "none", None, 1, (48, 128)),
        "encoder.layers.encoder_layer_1.mlp.0": ("linear", "none", "gelu", 1, (8, 12)),
        "heads.head": ("linear", "none", None, 1, (8, 3)),
    },
    "lstm": {
        "lstm": ("recurrent", "none", None, 1, (4, 24)),
        "readout": ("linear", "none", None, 1, (6, 3)),
    },
    "cells": {
        "cell": ("recurrent", "none", None, 5, (4, 18)),
        "readout": ("linear", "none", None, 1, (6, 3)),
    },
    "gpt": {
        "h.0.c_attn": ("linear", "none", None, 1, (8, 24)),
        "h.0.c_fc": ("linear", "none", "gelu", 1, (8, 32)),
        "h.1.mlp_proj": ("linear", "none", None, 1, (32, 8)),
    },
    "densenet": {
        "first": ("conv", "none", None, 1, (9, 36)),
        "convs.2": ("conv", "none", None, 1, (90, 27)),
        "readout": ("linear", "none", None, 1, (13, 3)),
    },
    "unet": {
        "enter": ("conv", "none", "leaky_relu", 1, (9, 36)),
        "up": ("conv_transpose", "none", "leaky_relu", 1, (24, 16)),
        "out": ("conv", "none", None, 1, (8, 3)),
    },
    "mobilenet": {
        "body.0": ("conv", "batch", "hardtanh", 1, (9, 36)),
        "body.3": ("conv", "batch", "hardtanh", 1, (9, 9)),
        "body.6": ("conv", "batch", "hardtanh", 1, (4, 6)),
    },
    "siamese": {
        "tower.0": ("linear", "none", "tanh", 2, (5, 6)),
        "tower.2": ("linear", "none", "tanh", 2, (6, 4)),
        "readout": ("linear", "none", None, 1, (8, 3)),
    },
}
COUNTS = {"resnet18": 21, "encoder": 9, "vit": 10, "lstm": 2, "cells": 2, "gpt": 10}
COUNTS |= {"densenet": 5, "unet": 4, "mobilenet": 4, "siamese": 3}


@pytest.mark.parametrize("name", ZOO)
def test_what_is_found_is_what_was_written(name):
    network, inputs, _ = build(name)
    layers = layer_map(network, *inputs)
    assert [spec.index for spec in layers] == list(range(1, COUNTS[name] + 1))
    found = {spec.name: spec for spec in layers}
    for layer, (kind, norm, phi, uses, fans) in EXPECTED[name].items():
        spec = found[layer]
        assert (spec.map, spec.normalization, spec.uses) == (kind, norm, uses), layer
        assert (spec.fan_in, spec.fan_out) == fans, layer
        assert (spec.activation and spec.activation.name) == phi, layer
    assert [spec.kind for spec in layers].count("readout") == 1
    assert layers[-1].kind == "readout"


@pytest.mark.parametrize("name", ZOO)
def test_every_parameter_of_a_map_is_found_where_it_stands(name):
    network, inputs, _ = build(name)
    layers = layer_map(network, *inputs)
    names = {id(parameter): key for key, parameter in network.named_parameters()}
    maps = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.RNNBase, nn.RNNCellBase)
    wanted = {
        id(parameter)
        for module in network.modules()
        if isinstance(module, maps) or type(module).__name__ == "Conv1D"
        for parameter in module.parameters(recurse=False)
    }
    seen = {id(parameter) for spec in layers for parameter in (*spec.weights, *spec.biases)}
    assert not {names[i] for i in wanted - seen}


@pytest.mark.parametrize("name", ZOO)
def test_a_dry_run_leaves_no_trace(name):
    network, inputs, _ = build(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = torch.get_rng_state()
    layer_map(network, *inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    for module in network.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_residual_branches_of_a_resnet():
    network, inputs, _ = build("resnet18")
    branch = {spec.name: spec.branch for spec in layer_map(network, *inputs)}
    assert branch["conv1"] is branch["fc"] is None
    assert branch["layer1.0.conv1"] == branch["layer1.0.conv2"] == 1
    assert branch["layer4.1.conv2"] == 8
    assert branch["layer2.0.downsample.0"] == branch["layer2.0.conv1"] == 3


def test_a_tied_head_is_a_layer_of_its_own():
    network, inputs, _ = build("gpt")
    first, *_, last = layer_map(network, *inputs)
    assert (first.map, last.map) == ("embedding", "linear")
    assert first.weights == last.weights == [network.wte.weight]
    assert last.weight.shape == (11, 8)


@pytest.mark.parametrize("name", ["unet", "gpt", "encoder", "resnet18", "mobilenet"])
def test_a_weight_is_out_times_in_and_can_be_written_to(name):
    """Also after the parameters' memory has been replaced."""
    network, inputs, _ = build(name)
    layers = [spec for spec in layer_map(network, *inputs) if spec.map != "embedding"]
    network.float()
    for spec in layers:
        value = torch.randn(spec.weight.shape)
        spec.weight.copy_(value)
        assert torch.equal(spec.weight, value)
        (parameter,) = spec.weights
        assert parameter.detach().double().norm() == pytest.approx(value.double().norm().item())
    if name == "gpt":
        assert torch.equal(network.h[0].c_fc.weight.detach().T, layers[2].weight)


class Squared(nn.Module):
    def forward(self, z):
        return torch.relu(z).square()


class Swish(nn.Module):
    """Written out: no φ of torch's own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        z = self.first(x)
        return self.last(z * torch.sigmoid(z))


class Handmade(nn.Module):
    """No modules at all."""

    def __init__(self):
        super().__init__()
        self.w = nn.ParameterList([nn.Parameter(torch.randn(4, 4)) for _ in range(3)])
        self.b = nn.Parameter(torch.zeros(4))

    def forward(self, x):
        x = torch.tanh(x @ self.w[0] + self.b)
        x = torch.tanh(F.linear(x, self.w[1].T))
        return x @ self.w[2].T


def phis(network, *inputs):
    return [spec.activation and spec.activation.name for spec in layer_map(network, *inputs)]


def test_a_module_wins_over_the_functions_it_calls():
    network = nn.Sequential(nn.Linear(4, 4), Squared(), nn.Linear(4, 2))
    assert phis(network, torch.randn(3, 4)) == ["Squared", None]


def test_a_phi_that_is_written_out_is_none():
    assert phis(Swish(), torch.randn(3, 4)) == [None, None]


def test_arguments_of_a_phi_are_its_own():
    network, inputs, _ = build("mobilenet")  # relu6 is a hardtanh from 0 to 6
    phi = layer_map(network, *inputs)[0].activation
    assert phi.phi([-1.0, 5.0, 7.0]).tolist() == [0.0, 5.0, 6.0]
    steep = nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(0.3, inplace=True), nn.Linear(4, 2))
    phi = layer_map(steep, torch.randn(3, 4))[0].activation
    assert phi.phi(-2.0) == pytest.approx(-0.6)
    plain = nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(), nn.Linear(4, 2))
    assert layer_map(plain, torch.randn(3, 4))[0].activation.phi(-2.0) == pytest.approx(-0.02)


def test_layers_without_modules():
    layers = layer_map(Handmade(), torch.randn(3, 4))
    assert [spec.name for spec in layers] == ["w.0", "w.1", "w.2"]
    assert [spec.site for spec in layers] == ["function"] * 3
    assert [spec.activation and spec.activation.name for spec in layers] == ["tanh", "tanh", None]
    assert len(layers[0].biases) == 1
    assert torch.equal(layers[0].weight, layers[0].weights[0].detach().T)
    assert torch.equal(layers[2].weight, layers[2].weights[0].detach())


def test_a_computed_weight_has_its_parameters_and_no_matrix():
    network = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(4, 5)), nn.ReLU(), nn.Linear(5, 2)
    )
    first, second = layer_map(network, torch.randn(3, 4))
    assert [tuple(weight.shape) for weight in first.weights] == [(5, 1), (5, 4)]
    assert (first.fan_in, first.fan_out) == (4, 5)
    with pytest.raises(ValueError, match="computed from its parameters"):
        _ = first.weight
    assert second.weight.shape == (2, 5)


def test_a_network_without_weights_is_refused():
    with pytest.raises(UserError, match="Sequential: its forward pass applies no weight"):
        layer_map(nn.Sequential(nn.ReLU()), torch.randn(3, 4))


OWN = [
    (model, activation, normalization)
    for model in ("mlp", "convnet")
    for activation in ("tanh", "squared_relu", "torch_nn", "hardsigmoid", "prelu", "linear")
    for normalization in ("none", "batch", "layer", "rms")
]


@pytest.mark.parametrize(("model", "activation", "normalization"), OWN)
def test_our_own_networks(model, activation, normalization):
    words = [f"model={model}", f"activation={activation}", f"normalization={normalization}"]
    config = composed(*words, "model.depth=5")
    name = {"torch_nn": "Hardswish"}.get(activation, activation)
    layers = layer_map(build_network(config, (1, 8, 8), 5), torch.randn(3, 1, 8, 8))
    assert [spec.name for spec in layers] == [f"layers.{k}" for k in range(5)]
    assert [spec.site for spec in layers] == ["module"] * 5
    assert [spec.activation and spec.activation.name for spec in layers] == [name] * 4 + [None]
    assert [spec.normalization for spec in layers] == [normalization] * 4 + ["none"]
    assert layers[0].activation.learned is (activation == "prelu")
    assert [spec.kind for spec in layers] == ["hidden"] * 4 + ["readout"]
