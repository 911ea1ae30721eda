"""What initializers promise of a whole network, measured on it."""

import pytest
import torch
from torch import nn

from commands import composed
from isometry.errors import UserError
from isometry.initialization.observe import observe
from isometry.layers.discover import layers_of
from isometry.training.build import build_data, build_for, build_network


@pytest.mark.parametrize("depth", [10, 100, 1000])
def test_an_orthogonal_linear_network_is_an_isometry(depth):
    """Saxe et al. 2014: ‖Jᵀg‖ = ‖g‖ through all hidden layers, to 1e-5: the matrices are drawn in
    float32.
    """
    size = [f"model.depth={depth}", "model.width=48", "model.bias=false"]
    words = ["activation=linear", "initializer=orthogonal", *size]
    network = build_network(composed(*words), (1, 6, 8), 10).double()
    x = torch.randn(4, 1, 6, 8, dtype=torch.float64).requires_grad_()
    h = x.flatten(1)
    for layer in network.layers[:-1]:
        h = layer(h)
    direction = torch.randn_like(h)
    (gradient,) = torch.autograd.grad(h, x, direction)
    ratios = gradient.flatten(1).norm(dim=1) / direction.norm(dim=1)
    torch.testing.assert_close(ratios, torch.ones_like(ratios), atol=1e-5, rtol=0)


@pytest.mark.parametrize("depth", [10, 100, 1000])
def test_a_delta_orthogonal_linear_network_is_an_isometry(depth):
    """Xiao et al. 2018, of a convolutional network with circular padding."""
    size = [f"model.depth={depth}", "model.channels=12", "model.stages=1", "model.bias=false"]
    words = ["model=convnet", "activation=linear", "initializer=delta_orthogonal", *size]
    network = build_network(composed(*words), (12, 4, 4), 10).double()
    x = torch.randn(2, 12, 4, 4, dtype=torch.float64).requires_grad_()
    h = x
    for layer in network.layers[:-1]:
        h = layer(h)
    direction = torch.randn_like(h)
    (gradient,) = torch.autograd.grad(h, x, direction)
    ratios = gradient.flatten(1).norm(dim=1) / direction.flatten(1).norm(dim=1)
    torch.testing.assert_close(ratios, torch.ones_like(ratios), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("out", "into", "kernel"), [(5, 9, ()), (9, 5, ()), (4, 3, (3, 3)), (6, 8, (5,))]
)
def test_orthogonal_weights_of_every_shape(out, into, kernel):
    """Rows or columns of the matrix [out, in x positions] are orthonormal."""
    kinds = {0: nn.Linear, 1: nn.Conv1d, 2: nn.Conv2d}
    module = kinds[len(kernel)](into, out, *kernel[:1])
    from isometry import initializers
    from isometry.layers.discover import layer_map

    example = torch.zeros(2, into, *(8 for _ in kernel))
    initializers.Orthogonal(1.3, 0.0)(layer_map(module, example), torch.Generator().manual_seed(0))
    rows = module.weight.detach().double().flatten(1)
    small = rows if len(rows) <= rows.shape[1] else rows.T
    expected = 1.69 * torch.eye(len(small), dtype=torch.float64)
    torch.testing.assert_close(small @ small.T, expected, atol=1e-5, rtol=0)


LOOKS_LINEAR = {
    "mlp": ["model.depth=12", "model.width=20"],
    "convnet": ["model=convnet", "model.depth=5", "model.channels=8"],
    "residual": ["model=residual_mlp", "model.depth=12", "model.width=20"],
    "resnet": ["model=resnet", "model.depth=8", "normalization=none", "model.order=pre"],
}
LOOKS_LINEAR["resnet"] += ["model.shortcut=B"]


@pytest.mark.parametrize("model", LOOKS_LINEAR)
@pytest.mark.parametrize("phi", ["relu", "leaky_relu"])
def test_looks_linear_is_linear(model, phi):
    """Balduzzi et al. 2017, sec. 4: f(ax + by) = a f(x) + b f(y), to what float32 weights leave."""
    words = [*LOOKS_LINEAR[model], f"activation={phi}", "initializer=looks_linear"]
    network = build_network(composed(*words), (2, 8, 8), 10).double()
    x, y = torch.randn(2, 3, 2, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = 0.3 * network(x) - 1.7 * network(y)
        found = network(0.3 * x - 1.7 * y)
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, atol=1e-5 * scale, rtol=0)
    assert scale > 1e-6


@pytest.mark.parametrize("phi", ["relu", "leaky_relu"])
def test_looks_linear_keeps_the_gain(phi):
    """All singular values of a linear layer: those of the whole Jacobian are gain^L."""
    size = ["model.depth=6", "model.width=24", "initializer.gain=1.1"]
    words = [*size, f"activation={phi}", "initializer=looks_linear"]
    network = build_network(composed(*words), (1, 3, 4), 12).double()
    x = torch.randn(1, 1, 3, 4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(network, x).reshape(12, 12)
    values = torch.linalg.svdvals(jacobian)
    torch.testing.assert_close(values, torch.full_like(values, 1.1**6), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["activation=tanh"], "activation=tanh makes no pair linear"),
        (["activation=relu", "normalization=batch"], "set normalization=none"),
        (["activation=relu", "model.width=7"], "7 units to be paired"),
        (["model=resnet", "normalization=none", "model.shortcut=B"], "set model.order=pre"),
        (["model=resnet", "normalization=none", "model.order=pre"], "pad keeps no pairs"),
        (["model=vgg"], "max_pool2d keeps no pairs"),
        (["model=rnn", "activation=relu"], "no recurrent matrices"),
        (["model=vit", "model.patch=4", "normalization=none", "activation=relu"], "keeps no pairs"),
    ],
)
def test_what_does_not_look_linear_is_named(words, message):
    with pytest.raises(UserError, match=message):
        build_network(composed("initializer=looks_linear", *words), (1, 8, 8), 10)


LSUV = {
    "mlp": ["model.depth=20", "activation=relu"],
    "sigmoid": ["model.depth=8", "activation=sigmoid"],
    "convnet": ["model=convnet", "model.depth=6", "activation=gelu"],
    "resnet": ["model=resnet", "model.depth=14", "normalization=none"],
    "highway": ["model=highway", "model.depth=6"],
    "vgg": ["model=vgg", "model.depth=7"],
    "vit": ["model=vit", "model.depth=2"],
    "decoder": ["model=decoder", "model.depth=2"],
}


@pytest.mark.parametrize("model", LSUV)
def test_lsuv_gives_every_layer_variance_one(model):
    """Mishkin & Matas 2016, algorithm 1: on the batch it looked at, within its tolerance, but for
    embeddings, which no initializer draws.
    """
    config = composed(*LSUV[model], "initializer=lsuv", "data.val_size=60")
    data = build_data(config)
    network = build_for(config, data)
    specs = layers_of(network)
    texts = data.examples(256)
    labels = torch.zeros(256, dtype=torch.int64)
    if model == "decoder":
        labels = texts
    found = observe(network, [(texts, labels)]).columns["preactivation_var"]
    drawn = [v for v, spec in zip(found, specs, strict=True) if spec.map != "embedding"]
    assert len(drawn) >= 5
    assert drawn == pytest.approx([1.0] * len(drawn), abs=0.0101)


@pytest.mark.parametrize("more", ["normalization=batch", "model.dropout=0.5"])
def test_lsuv_leaves_nothing_behind(more):
    """Running statistics are those of no batch; dropout and the global generator play no part."""
    config = composed("initializer=lsuv", more)
    data = build_data(config)
    networks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        networks.append(build_for(config, data))
        assert torch.equal(before, torch.get_rng_state())
    for one, other in zip(*(n.state_dict().values() for n in networks), strict=True):
        assert torch.equal(one, other)
    counts = [b for name, b in networks[0].named_buffers() if name.endswith("num_batches_tracked")]
    assert not any(map(int, counts))


def test_lsuv_without_data_is_refused():
    with pytest.raises(UserError, match="initializer=lsuv needs a data set"):
        build_network(composed("initializer=lsuv"), (1, 8, 8), 10)
